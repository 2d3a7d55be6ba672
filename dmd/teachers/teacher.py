"""A teacher: a diffusers pipeline folder, read as a frozen Denoiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from dmd.codecs.latents import Codec, Latents
from dmd.codecs.layouts import layout_of
from dmd.codecs.pixels import PIXELS
from dmd.config import EVERYWHERE, Precision
from dmd.diffusion.denoiser import Cond, Denoiser, Guided, GuidedByInput, as_denoiser
from dmd.errors import TeacherError
from dmd.families.family import Family, embed_all
from dmd.families.pipelines import find_family, load_pipeline
from dmd.families.tables import Tables
from dmd.samplers.sampler import Sampler
from dmd.samplers.solvers import SOLVERS, Solver
from dmd.storage.faults import refuse


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher with the diffusers pipeline that it was loaded from."""

    denoiser: Denoiser
    guided: Denoiser  # `denoiser` with classifier-free guidance, or `denoiser` itself at scale 1
    pipeline: DiffusionPipeline
    shape: tuple[int, int, int]  # (C, H, W) of the network's input: pixels or latents
    conditions: int  # number of conditions, the null condition included; 0 for an unconditional teacher
    codec: Codec = PIXELS
    captions: tuple[str, ...] = ()  # the conditions, if they are captions

    def sampler(self, name: str) -> Sampler:
        """Return a deterministic sampler of the guided teacher: ddim_N in N network passes, heun_N in 2 N - 1.

        Raises TeacherError if the teacher's schedule has fewer than N steps.
        """
        method, _, number = name.partition("_")
        solver, steps = SOLVERS[method], int(number)
        self.check_steps(name, steps)
        device, sample = next(self.denoiser.parameters()).device, partial(self._sample, solver, steps)
        return Sampler(name, solver.passes(steps), self.shape, bool(self.conditions), device, sample)

    def check_steps(self, key: str, steps: int) -> None:
        """Raise TeacherError if the teacher's schedule has fewer than `steps` noise levels; key: where they are set."""
        if steps > (timesteps := self.denoiser.process.timesteps):
            raise TeacherError(
                f"{key}: {steps} steps do not fit on the {timesteps} noise levels of the teacher's schedule "
                f"(num_train_timesteps in its scheduler_config.json); use at most {timesteps}"
            )

    def _sample(self, solver: Solver, steps: int, z: Tensor, cond: Cond) -> Tensor:
        return self.codec.decode(solver.solve(self.guided, z, steps, cond))


def load_teacher(
    folder: Path | str,
    device: torch.device | str = "cpu",
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
    guidance_interval: tuple[float, float] = EVERYWHERE,
    guidance_rescale: float = 0.0,
    precision: Precision = "fp32",
) -> Teacher:
    """Load the teacher in `folder`, frozen and in eval mode.

    captions: the conditions of a network that takes captions. texts: their embeddings from stage `encode`, computed
    here if there are none. guidance_interval: lowest and highest guided t, as shares of T. guidance_rescale: share of
    the guided output that keeps the standard deviation without guidance. precision: bf16 holds the network's weights in
    half of the memory and runs it in bfloat16; images and the states of samplers stay in float32. Raises TeacherError
    if the folder cannot be used as a teacher, or if a network without conditions is to be guided.
    """
    folder = Path(folder)
    pipe = load_pipeline(folder, texts is None, precision)
    return new_teacher(pipe, folder, device, guidance_scale, captions, texts, guidance_interval, guidance_rescale)


def new_teacher(
    pipe: DiffusionPipeline,
    folder: Path,
    device: torch.device | str,
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
    guidance_interval: tuple[float, float] = EVERYWHERE,
    guidance_rescale: float = 0.0,
) -> Teacher:
    """Make a teacher of a pipeline that was loaded from `folder`; arguments and errors are those of load_teacher."""
    family = find_family(pipe, folder)
    if family.takes_captions and not captions:
        raise TeacherError(f"{folder} is conditioned on text, but the data have no captions")
    shape = _input_shape(family, pipe, folder)
    with refuse(f"{folder}: its text encoder cannot embed captions", "correct the configs of tokenizer and encoder"):
        net = family.wrap(pipe, texts or embed_all(family, pipe, captions))
    with refuse(f"{folder}", f"correct {folder / 'scheduler' / 'scheduler_config.json'}"):
        denoiser = as_denoiser(net, pipe.scheduler, family.flow_mu(pipe, shape)).eval().requires_grad_(False).to(device)
    conditions = family.count_conditions(pipe, captions)
    if guidance_scale != 1 and not conditions:
        raise TeacherError(f"guidance.scale: {guidance_scale} needs a teacher with conditions; {folder} has none")
    return Teacher(
        denoiser=denoiser,
        guided=_guide(denoiser, guidance_scale, conditions - 1, guidance_interval, guidance_rescale, family, pipe),
        pipeline=pipe,
        shape=shape,
        conditions=conditions,
        codec=Latents(pipe.vae.eval().requires_grad_(False).to(device)) if family.on_latents else PIXELS,
        captions=tuple(captions) if family.takes_captions else (),
    )


def _guide(
    denoiser: Denoiser,
    scale: float,
    null: int,
    interval: tuple[float, float],
    rescale: float,
    family: Family,
    pipe: DiffusionPipeline,
) -> Denoiser:
    """Return the teacher with guidance as its pipeline applies it.

    null: the label for "no condition". Raises TeacherError for an interval or rescaling that the pipeline cannot have.
    """
    if scale == 1:
        return denoiser
    if not family.is_guided_by_input(pipe):
        return Guided(denoiser, scale, null, interval, family.rescale, rescale)
    if interval != EVERYWHERE or rescale:
        raise TeacherError(
            f"guidance.t_min, t_max, rescale: {family.parts} takes the scale as an input and has no prediction without "
            "guidance; set them to 0, 1 and 0"
        )
    return GuidedByInput(denoiser, scale)


def _input_shape(family: Family, pipe: DiffusionPipeline, folder: Path) -> tuple[int, int, int]:
    """Return (C, H, W) of the network's input. A network whose config has no size takes its VAE's."""
    config = family.network(pipe).config
    channels = config["in_channels"] // family.packing**2
    size = config.get(family.size_key)
    if size is None and family.on_latents and (pixels := pipe.vae.config.get("sample_size")):
        size = pixels // layout_of(pipe.vae).downscaling(pipe.vae.config)
    match size:
        case int(size):
            return channels, size, size
        case [int(height), int(width)]:
            return channels, height, width
        case other:
            file, key = family.folder_of(pipe, folder) / "config.json", family.size_key
            raise TeacherError(f"{file}: {key} {other!r} is not a number of pixels or a pair of them; correct it")
