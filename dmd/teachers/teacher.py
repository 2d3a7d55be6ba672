"""A teacher: a diffusers pipeline folder, read as a frozen Denoiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from dmd.codecs.latents import Codec, Latents
from dmd.codecs.pixels import PIXELS
from dmd.diffusion.denoiser import Cond, Denoiser, Guided, as_denoiser
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
    folder: Path,
    device: torch.device,
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
) -> Teacher:
    """Load the teacher in `folder`, frozen and in eval mode.

    captions: the conditions of a network that takes captions. texts: their embeddings from stage `encode`, computed
    here if there are none. Raises TeacherError if the folder cannot be used as a teacher, or if a network without
    conditions is to be guided.
    """
    return new_teacher(load_pipeline(folder), folder, device, guidance_scale, captions, texts)


def new_teacher(
    pipe: DiffusionPipeline,
    folder: Path,
    device: torch.device,
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
) -> Teacher:
    """Make a teacher of a pipeline that was loaded from `folder`; arguments and errors are those of load_teacher."""
    family = find_family(pipe, folder)
    if family.takes_captions and not captions:
        raise TeacherError(f"{folder} is conditioned on text, but the data have no captions")
    shape = _input_shape(family, pipe, folder)
    with refuse(f"{folder}: its text encoder cannot embed captions", "correct the configs of tokenizer and encoder"):
        net = family.wrap(pipe, texts or embed_all(family, pipe, captions))
    with refuse(f"{folder}", f"correct {folder / 'scheduler' / 'scheduler_config.json'}"):
        denoiser = as_denoiser(net, pipe.scheduler).eval().requires_grad_(False).to(device)
    conditions = family.count_conditions(pipe, captions)
    if guidance_scale != 1 and not conditions:
        raise TeacherError(f"guidance.scale: {guidance_scale} needs a teacher with conditions; {folder} has none")
    return Teacher(
        denoiser=denoiser,
        guided=denoiser if guidance_scale == 1 else Guided(denoiser, guidance_scale, null=conditions - 1),
        pipeline=pipe,
        shape=shape,
        conditions=conditions,
        codec=Latents(pipe.vae.eval().requires_grad_(False).to(device)) if family.on_latents else PIXELS,
        captions=tuple(captions) if family.takes_captions else (),
    )


def _input_shape(family: Family, pipe: DiffusionPipeline, folder: Path) -> tuple[int, int, int]:
    """Return (C, H, W) of the network's input."""
    config = family.network(pipe).config
    match config["sample_size"]:
        case int(size):
            return config["in_channels"], size, size
        case [int(height), int(width)]:
            return config["in_channels"], height, width
        case other:
            file = family.folder_of(pipe, folder) / "config.json"
            raise TeacherError(f"{file}: sample_size {other!r} is not a number of pixels or a pair of them; correct it")
