"""Tiny teachers on latents: DiT with labels, UNet2DConditionModel with captions."""

from pathlib import Path

import torch

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES, Split
from dmd.diffusion.pipelines import save_pipeline
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.text_unet import TrainableTextUnet
from dmd.teacher_training.vae import set_scale
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS, reals


def digits() -> Split:
    """Random 8x8 images with the labels and captions of digits."""
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    return Split(images, labels, [CAPTIONS[i] for i in labels.tolist()], DIGIT_NAMES, CAPTIONS)


def tiny_params(params: Params, network: str, **changes: object) -> Params:
    """Parameters of a tiny teacher on latents. network: dit or text_unet."""
    cfg = params.teacher
    update = {
        "network": network,
        "channels": [8, 16],
        "vae": cfg.vae.model_copy(update={"channels": [8, 8], "steps": 3}),
        "text": cfg.text.model_copy(update={"hidden_size": 16, "layers": 1}),
        "dit": cfg.dit.model_copy(update={"width": 16, "layers": 3}),
    }
    return params.model_copy(update={"teacher": cfg.model_copy(update={**update, **changes})})


def teacher_folder(params: Params, out: Path) -> Path:
    """Save an untrained teacher whose output depends on its input and whose latents have unit standard deviation."""
    torch.manual_seed(0)
    net, parts = new_network(params.teacher, digits())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    parts.vae.eval()
    set_scale(parts.vae, reals().x)
    bare = net.unet if isinstance(net, TrainableTextUnet) else net.transformer
    save_pipeline(bare, new_scheduler(params.teacher), out, like=parts)
    return out


def latent_teacher(params: Params, network: str, folder: Path) -> Teacher:
    """Save a tiny teacher in `folder` and load it. network: dit or text_unet."""
    return load_teacher(teacher_folder(tiny_params(params, network), folder), CPU, captions=CAPTIONS)


def export(teacher: Teacher, out: Path, *times: int) -> Generator:
    """Export the teacher's network as a generator with these timesteps."""
    generator = Generator(teacher.denoiser, times, teacher.shape, DIGIT_NAMES, teacher.codec)
    export_generator(generator, teacher, out)
    return generator
