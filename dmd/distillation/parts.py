"""The parts of a generator that learn, as GDD-I divides them (Zheng and Yang 2024)."""

import re

from dmd.diffusion.denoiser import Denoiser
from dmd.networks.wrapper import unwrap

# Inside the blocks of a UNet of diffusers: the convolutions of residual blocks and of changes of resolution, and the
# projections after attention. Norms, time and label layers, queries, keys, values, 1x1 skips and the outer
# convolutions learn.
SPATIAL = re.compile(r"(^|\.)(conv1|conv2|(down|up)samplers\.\d+\.conv|to_out\.0)\.")


def freeze_spatial(generator: Denoiser) -> None:
    """Freeze the spatial convolutions and attention projections of a UNet's blocks.

    Raises ValueError for a network that has none of them, such as a transformer of another layout.
    """
    frozen = [p for name, p in unwrap(generator.net).named_parameters() if SPATIAL.search(name)]
    if not frozen:
        raise ValueError("train.generator_parts: no_spatial needs a UNet with spatial convolutions; use all")
    for p in frozen:
        p.requires_grad_(False)
