"""A generator as a diffusers folder that needs nothing of this project to run."""

import json
from pathlib import Path

from dmd.files import new_folder, write_text
from dmd.generator import Generator
from dmd.teachers import Teacher, sampling_scheduler, save_pipeline

CARD = """---
library_name: diffusers
tags: [one-step, distribution-matching-distillation]
---
# A generator of {steps}

Distilled from a diffusion model by Distribution Matching Distillation:

```python
import json
import torch
from diffusers import UNet2DModel
from PIL import Image

unet = UNet2DModel.from_pretrained(".", subfolder="unet")  # this folder
steps = json.load(open("generator.json"))["steps"]
rng = torch.Generator().manual_seed(0)
labels = torch.tensor([0, 1, 2]){no_labels}
noise = torch.stack([torch.randn({shape}, generator=rng) for _ in labels])  # [B, steps, C, H, W]
x = torch.zeros_like(noise[:, 0])
with torch.inference_mode():
    for k, s in enumerate(steps):
        x_t = s["alpha"] * x + s["sigma"] * noise[:, k]
        out = unet(s["c_in"] * x_t, s["time"]{label_argument}).sample
        x = s["c_skip"] * x_t + s["c_out"] * out
pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()  # [B, C, H, W]
Image.fromarray(pixels[0].permute(1, 2, 0).squeeze(-1).numpy()).save("image.png")
```

Labels: {classes}.
"""


def export_generator(generator: Generator, teacher: Teacher, out: Path) -> None:
    """Write unet, scheduler, generator.json and a card; the folder appears whole or not at all."""
    names = generator.classes
    about = {
        "timesteps": list(generator.times),
        "steps": generator.plan(),
        "shape": list(generator.shape),
        "classes": list(names),
    }
    card = CARD.format(
        steps="one step" if len(generator.times) == 1 else f"{len(generator.times)} steps",
        shape=(len(generator.times), *generator.shape),
        no_labels="" if names else "  # this generator takes no labels: only their number counts",
        label_argument=", class_labels=labels" if names else "",
        classes=", ".join(f"{i} {name}" for i, name in enumerate(names)) or "none",
    )
    with new_folder(out) as folder:
        save_pipeline(generator.denoiser.net, sampling_scheduler(teacher.scheduler), folder)
        write_text(folder / "generator.json", json.dumps(about, indent=2) + "\n")
        write_text(folder / "README.md", card)
