"""Writes a generator as a diffusers folder that runs without this project."""

import json
from pathlib import Path

from dmd.codecs.pixels import Pixels
from dmd.config import NONE, MethodConfig, TrainConfig
from dmd.diffusion.pipelines import save_pipeline
from dmd.generator.adapters import merge_adapters, save_adapter
from dmd.generator.generator import Generator
from dmd.generator.scheduler import sampling_scheduler
from dmd.generator.standalone import SOURCE
from dmd.networks.wrapper import unwrap
from dmd.storage.files import new_folder, write_text
from dmd.teachers.teacher import Teacher

LISTED = 20  # number of prompts in the card; generator.json has all of them

CARD = """---
library_name: diffusers
tags: [one-step, distribution-matching-distillation]
---
# A generator of {steps}

Distilled from a diffusion model by Distribution Matching Distillation{training}:

```python
{snippet}
```

{conditions}.
"""

PIXELS = """import json
import torch
from diffusers import UNet2DModel
from PIL import Image


{run_steps}

unet = UNet2DModel.from_pretrained(".", subfolder="unet")  # this folder
steps = json.load(open("generator.json"))["steps"]
rng = torch.Generator().manual_seed(0)
labels = torch.tensor([0, 1, 2]){no_labels}
noise = torch.stack([torch.randn({shape}, generator=rng) for _ in labels])  # [B, steps, C, H, W]
with torch.inference_mode():
    x = run_steps(unet, steps, noise{label_argument})
pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()  # [B, C, H, W]
Image.fromarray(pixels[0].permute(1, 2, 0).squeeze(-1).numpy()).save("image.png")
"""

TEXT = """import torch
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained(".")  # this folder
rng = torch.Generator().manual_seed(0)
image = pipe({prompt!r}, timesteps={times}, guidance_scale=0, generator=rng).images[0]
image.save("image.png")
"""

TRANSFORMER = """import torch
from diffusers import DiTPipeline

pipe = DiTPipeline.from_pretrained(".")  # this folder
torch.manual_seed(0)  # this pipeline takes the noise of later steps from the global generator
image = pipe([0], num_inference_steps={steps}, guidance_scale=1).images[0]
image.save("image.png")
"""


def export_generator(
    generator: Generator, teacher: Teacher, out: Path, adapter: bool = False, training: str = ""
) -> None:
    """Write the pipeline, generator.json and a card; the folder appears whole or not at all.

    training: the training in words, for the card. Adapters are merged into the weights; with `adapter` they are also
    written separately, to adapter/.
    """
    about = {
        "timesteps": list(generator.times),
        "steps": generator.plan(),
        "shape": list(generator.shape),
        "classes": list(generator.classes),
        "captions": list(teacher.captions),
    }
    scheduler = sampling_scheduler(teacher, generator.times)
    net = unwrap(generator.denoiser.net)
    with new_folder(out) as folder:
        save_pipeline(merge_adapters(net), scheduler, folder, like=teacher.pipeline)
        if adapter:
            save_adapter(net, teacher.pipeline, folder / "adapter")
        write_text(folder / "generator.json", json.dumps(about, indent=2) + "\n")
        write_text(folder / "README.md", card(generator, teacher, training))


def describe_training(method: MethodConfig, train: TrainConfig) -> str:
    """The start of the generator, the warm start and the turns of distribution matching, in words."""
    warm, parts = train.warm_start, list[str]()
    if method.init_from != NONE:
        parts.append(f"the weights of {Path(method.init_from).name}")
    if warm.turns:
        parts.append(f"a warm start of {warm.turns:,} turns of regression on the teacher's pairs")
    if warm.critic_turns:
        parts.append(f"{warm.critic_turns:,} turns of the critic alone")
    return ", then ".join([*parts, f"{train.generator_turns:,} turns of distribution matching"])


def card(generator: Generator, teacher: Teacher, training: str = "") -> str:
    """The text of the card: a description of the generator and code that makes an image with it."""
    names = generator.classes
    if teacher.captions:
        pipeline = type(teacher.pipeline).__name__
        snippet = TEXT.format(pipeline=pipeline, prompt=teacher.captions[0], times=list(generator.times))
        more = len(teacher.captions) - LISTED
        listed = ", ".join(repr(c) for c in teacher.captions[:LISTED])
        conditions = f"It was trained on the prompts: {listed}" + (f" and {more:,} more" if more > 0 else "")
    else:
        snippet = _snippet(generator, teacher)
        conditions = "Labels: " + (", ".join(f"{i} {name}" for i, name in enumerate(names)) or "none")
    steps = "one step" if len(generator.times) == 1 else f"{len(generator.times)} steps"
    course = f" ({training})" if training else ""
    return CARD.format(steps=steps, training=course, snippet=snippet.strip(), conditions=conditions)


def _snippet(generator: Generator, teacher: Teacher) -> str:
    if not isinstance(teacher.codec, Pixels):
        return TRANSFORMER.format(steps=len(generator.times))
    return PIXELS.format(
        run_steps=SOURCE,
        shape=(len(generator.times), *generator.shape),
        no_labels="" if generator.classes else "  # this generator takes no labels: only their number counts",
        label_argument=", class_labels=labels" if generator.classes else "",
    )
