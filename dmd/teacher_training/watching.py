"""Pictures of a teacher while it trains, for those who watch the run; no result depends on them."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from dmd.codecs.latents import Codec
from dmd.config import TeacherConfig
from dmd.diffusion.denoiser import Denoiser
from dmd.generator.pictures import image_grid, png
from dmd.progress import is_watched, show_picture
from dmd.samplers.ddim import ddim
from dmd.samplers.sampler import to_uint8
from dmd.storage.files import write_bytes
from dmd.training.random_source import RandomSource

PICTURES = 10  # of a training, evenly spaced
COLUMNS, ROWS = 10, 4
SAMPLER_STEPS = 10  # of DDIM: 400 passes of one image, about those of two training steps of 64


def show_samples(
    denoiser: Denoiser, codec: Codec, shape: tuple[int, ...], conditions: int, step: int, cfg: TeacherConfig
) -> None:
    """Show a picture of samples after every tenth of the steps, if someone watches.

    denoiser: the averaged network. codec: decodes its x0, of this shape [C, H, W], to images. conditions: number of its
    labels, which the columns go through; 0 without labels. The noise is the same for every picture.
    """
    if not is_watched() or step % max(1, cfg.steps // PICTURES):
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"teacher_{step:06d}.png"
        write_bytes(file, png(image_grid(_draw(denoiser, codec, shape, conditions, cfg).cpu().numpy())))
        show_picture(file)


@torch.no_grad()
def _draw(denoiser: Denoiser, codec: Codec, shape: tuple[int, ...], conditions: int, cfg: TeacherConfig) -> Tensor:
    """Samples as uint8 images [ROWS, COLUMNS, C, H, W]."""
    device = next(denoiser.parameters()).device
    z = RandomSource(cfg.seed, 0, "teacher picture", range(ROWS * COLUMNS), device).noise(*shape)
    labels = (torch.arange(COLUMNS, device=device) % conditions).repeat(ROWS) if conditions else None
    steps = min(SAMPLER_STEPS, denoiser.process.timesteps)
    x0 = ddim(denoiser, z, steps, labels)
    return to_uint8(codec.decode(x0)).unflatten(0, (ROWS, COLUMNS))
