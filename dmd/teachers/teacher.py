"""A teacher: fetched from a folder or the hub, read back as a frozen Denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from dmd.codecs.latents import Codec, Latents
from dmd.codecs.pixels import PIXELS
from dmd.diffusion.denoiser import Cond, Denoiser, Guided, as_denoiser
from dmd.diffusion.networks import Transformer
from dmd.errors import TeacherError
from dmd.families.captions import Tables, embed_all
from dmd.families.pipelines import load_pipeline, network_of
from dmd.families.text_to_image import Captioned, CaptionedXL
from dmd.samplers.ddim import ddim
from dmd.samplers.heun import heun
from dmd.samplers.sampler import Sampler


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher, the diffusers pipeline it came in, and what it was told about images and conditions."""

    denoiser: Denoiser
    guided: Denoiser  # `denoiser` with classifier-free guidance, or `denoiser` itself at scale 1
    pipeline: Any
    shape: tuple[int, int, int]  # of what the network works on: pixels or latents
    classes: int  # conditions that it knows, the null condition included; 0 = unconditional
    codec: Codec = PIXELS
    captions: tuple[str, ...] = ()  # of the conditions, where they are texts

    def sampler(self, name: str) -> Sampler:
        """Deterministic: ddim_N in N network passes, or heun_N in 2 N - 1. Raises TeacherError for too large an N."""
        method, _, steps = name.partition("_")
        solve, nfe = {"ddim": (ddim, int(steps)), "heun": (heun, 2 * int(steps) - 1)}[method]
        if int(steps) > (there := self.denoiser.process.timesteps):
            raise TeacherError(f"{name}: the teacher's schedule has {there} steps, no more can be taken")
        device = next(self.denoiser.parameters()).device
        return Sampler(name, nfe, self.shape, bool(self.classes), device, partial(self._make, solve, int(steps)))

    def _make(self, solve: Callable[..., Tensor], steps: int, z: Tensor, cond: Cond) -> Tensor:
        return self.codec.decode(solve(self.guided, z, steps, cond))


def load_teacher(
    folder: Path,
    device: torch.device,
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
) -> Teacher:
    """The teacher in `folder`, frozen, in eval mode. Guidance needs a network that was trained with a null condition.

    captions: of the conditions, for a network that is told of texts; texts: their embeddings as stage `encode` stored
    them, made here where there are none. Raises TeacherError for what cannot be used.
    """
    pipe = load_pipeline(folder)
    inner = network_of(pipe, folder)
    net, classes = _conditioned(inner, pipe, tuple(captions), texts, folder)
    try:
        denoiser = as_denoiser(net, pipe.scheduler).eval().requires_grad_(False).to(device)
    except ValueError as e:
        raise TeacherError(f"{folder}: {e}") from e
    if guidance_scale != 1 and not classes:
        raise TeacherError(f"guidance.scale: {guidance_scale} needs a teacher with conditions; {folder} has none")
    return Teacher(
        denoiser=denoiser,
        guided=denoiser if guidance_scale == 1 else Guided(denoiser, guidance_scale, null=classes - 1),
        pipeline=pipe,
        shape=(inner.config["in_channels"], *_sides(inner)),
        classes=classes,
        codec=PIXELS if net is inner else Latents(pipe.vae.eval().requires_grad_(False).to(device)),
        captions=tuple(captions) if isinstance(net, Captioned) else (),
    )


def _conditioned(
    inner: Any, pipe: Any, captions: tuple[str, ...], texts: Tables | None, folder: Path
) -> tuple[nn.Module, int]:
    """The network with conditions as indices, and their number."""
    if isinstance(inner, UNet2DConditionModel):
        if not captions:
            raise TeacherError(f"{folder} is conditioned on text, and the data have no captions")
        return _captioned(inner, pipe, texts or embed_all(pipe, captions)), len(captions) + 1
    if isinstance(inner, DiTTransformer2DModel):
        return Transformer(inner), inner.config["num_embeds_ada_norm"] + 1
    return inner, inner.config["num_class_embeds"] or 0


def _captioned(unet: UNet2DConditionModel, pipe: Any, texts: Tables) -> Captioned:
    if "pooled" not in texts:
        return Captioned(unet, texts["embeddings"])
    height, width = (side * pipe.vae_scale_factor for side in _sides(unet))
    return CaptionedXL(unet, texts["embeddings"], texts["pooled"], (height, width))


def _sides(net: Any) -> tuple[int, int]:
    """Height and width of what a network works on."""
    size = net.config["sample_size"]
    return (size, size) if isinstance(size, int) else tuple(size)
