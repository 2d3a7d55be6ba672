"""Writes a generator as a diffusers folder that runs without this project."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from dmd.codecs.pixels import Pixels
from dmd.config import NONE, MethodConfig, TrainConfig
from dmd.diffusion.pipelines import save_pipeline
from dmd.diffusion.process import is_flow
from dmd.families.transformers.base import TextTransformer
from dmd.features.facts import TrunkFacts, write_facts
from dmd.generator.adapters import merge_adapters, save_adapter
from dmd.generator.generator import Generator
from dmd.generator.scheduler import sampling_scheduler
from dmd.generator.standalone import SOURCE
from dmd.networks.wrapper import unwrap
from dmd.storage.files import new_folder, write_text
from dmd.teachers.levels import own_levels
from dmd.teachers.teacher import Teacher

LISTED = 20  # number of prompts in the card; generator.json has all of them
# What a generator learns by, for the card: the methods without a critic. All others learn by distribution matching.
LEARNS_BY = {"gdd": "adversarial training", "fd_loss": "FD-loss", "mmd_loss": "MMD loss"}

CARD = """---
library_name: diffusers
tags: [{tag}, diffusion-distillation]
---
# A generator of {steps}

Distilled from a diffusion model{training}:

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

TEXT_TRANSFORMER = """import torch
from diffusers import {pipeline}

pipe = {pipeline}.from_pretrained(".")  # this folder
torch.manual_seed(0)  # this pipeline takes the noise of later steps from the global generator
image = pipe({arguments}).images[0]
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
    generator: Generator,
    teacher: Teacher,
    out: Path,
    adapter: bool = False,
    training: str = "",
    prompts: Sequence[str] = (),
    learned_from: Iterable[TrunkFacts] | None = None,
) -> None:
    """Write the pipeline, generator.json and a card; the folder appears whole or not at all.

    training: the training in words, for the card. prompts: those that the generator was trained on, if they are not
    all captions of the teacher. learned_from: the frozen networks that the generator learned from, for a training that
    starts from it and for its evaluation; None if they are not known. Adapters are merged into the weights; with
    `adapter` they are also written separately, to adapter/.
    """
    about: dict[str, Any] = {
        "timesteps": list(generator.times),
        "steps": generator.plan(),
        "shape": list(generator.shape),
        "classes": list(generator.classes),
        "captions": list(teacher.captions),
    }
    if isinstance(net := teacher.denoiser.net, TextTransformer):
        about["pipeline"] = {"packed": net.family.packs_input, "call": pipeline_arguments(generator, teacher)}
        if net.family.packs_steps:
            about["pipeline"]["steps_on_tokens"] = True
    if generator.between == "ode":
        about["between"] = generator.between
    if (levels := generator.denoiser.process.timesteps) != own_levels(teacher):
        about["levels"] = levels
    scheduler = sampling_scheduler(teacher, generator.times, generator.between)
    if scheduler is not teacher.pipeline.scheduler:
        scheduler.register_to_config(**{f"_{name}": steps for name, steps in step_list(generator, teacher).items()})
    net = unwrap(generator.denoiser.net)
    with new_folder(out) as folder:
        save_pipeline(merge_adapters(net), scheduler, folder, like=teacher.pipeline)
        if adapter:
            save_adapter(net, teacher.pipeline, folder / "adapter")
        write_text(folder / "generator.json", json.dumps(about, indent=2) + "\n")
        write_text(folder / "README.md", card(generator, teacher, training, prompts))
        if learned_from is not None:
            write_facts(learned_from, folder)


def describe_training(method: MethodConfig, train: TrainConfig) -> str:
    """A sentence on the training for the card: initial weights, warm start, and generator turns of each method."""
    parts, then = list[str](), method.then
    if method.init_from != NONE:
        parts.append(f"the weights of {Path(method.init_from).name}")
    if train.warm_start.turns:
        parts.append(f"a warm start of {train.warm_start.turns:,} turns of regression on the teacher's pairs")
    parts += _turns(method.name, train.warm_start.critic_turns, train.generator_turns)
    if then.name != NONE:
        parts += _turns(then.name, then.critic_turns, then.generator_turns)
    return ", then ".join(parts)


def _turns(name: str, critic_turns: int, turns: int) -> list[str]:
    """The turns of one method. critic_turns: those before its first generator turn; without a critic it takes none."""
    alone = [f"{critic_turns:,} turns of the critic alone"] if critic_turns and name not in LEARNS_BY else []
    return [*alone, f"{turns:,} turns of {LEARNS_BY.get(name, 'distribution matching')}"]


def card(generator: Generator, teacher: Teacher, training: str = "", prompts: Sequence[str] = ()) -> str:
    """The text of the card: a description of the generator and code that makes an image with it.

    Arguments are those of `export_generator`.
    """
    names = generator.classes
    if teacher.captions:
        known = prompts or teacher.captions
        snippet = _text_snippet(generator, teacher, known[0])
        more = len(known) - LISTED
        listed = ", ".join(repr(c) for c in known[:LISTED])
        conditions = f"It was trained on the prompts: {listed}" + (f" and {more:,} more" if more > 0 else "")
    else:
        snippet = _snippet(generator, teacher)
        conditions = "Labels: " + (", ".join(f"{i} {name}" for i, name in enumerate(names)) or "none")
    is_one = len(generator.times) == 1
    return CARD.format(
        tag="one-step" if is_one else "few-step",
        steps="one step" if is_one else f"{len(generator.times)} steps",
        training=f" ({training})" if training else "",
        snippet=snippet.strip(),
        conditions=conditions,
    )


def pipeline_arguments(generator: Generator, teacher: Teacher) -> dict[str, Any]:
    """Arguments with which the stock pipeline of a text transformer makes the images of a generator."""
    family = cast(TextTransformer, teacher.denoiser.net).family
    return step_list(generator, teacher) | family.pipeline_arguments(teacher.pipeline, generator.shape)


def step_list(generator: Generator, teacher: Teacher) -> dict[str, list[Any]]:
    """The steps as an argument of a stock pipeline, by its name; sigmas are those before the scheduler's time shift."""
    if is_flow(teacher.pipeline.scheduler):
        levels = generator.denoiser.process.timesteps
        return {"sigmas": [(index + 1) / levels for index in generator.times]}
    return {"timesteps": list(generator.times)}


def _text_snippet(generator: Generator, teacher: Teacher, prompt: str) -> str:
    pipeline = type(teacher.pipeline).__name__
    if not isinstance(teacher.denoiser.net, TextTransformer):
        return TEXT.format(pipeline=pipeline, prompt=prompt, times=list(generator.times))
    named = (f"{name}={value!r}" for name, value in pipeline_arguments(generator, teacher).items())
    return TEXT_TRANSFORMER.format(pipeline=pipeline, arguments=", ".join([f"prompt={prompt!r}", *named]))


def _snippet(generator: Generator, teacher: Teacher) -> str:
    if not isinstance(teacher.codec, Pixels):
        return TRANSFORMER.format(steps=len(generator.times))
    return PIXELS.format(
        run_steps=SOURCE,
        shape=(len(generator.times), *generator.shape),
        no_labels="" if generator.classes else "  # this generator takes no labels: only their number counts",
        label_argument=", class_labels=labels" if generator.classes else "",
    )
