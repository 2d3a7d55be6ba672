"""A finished generator: its Denoiser, the timesteps at which it is conditioned, and its classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dmd.codecs.latents import Codec
from dmd.codecs.pixels import PIXELS
from dmd.config import MOST_LEVELS, Precision
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.errors import TeacherError, quote, shorten
from dmd.families.tables import NO_TEXTS, StoredTexts
from dmd.samplers.few_step import Between, generate
from dmd.samplers.sampler import Sampler
from dmd.teachers.levels import set_levels
from dmd.teachers.teacher import Teacher, load_teacher
from dmd.yaml_files import load_json


@dataclass(frozen=True)
class Generator:
    """A network that makes an image in len(times) passes."""

    denoiser: Denoiser
    times: tuple[int, ...]  # indices at which it is conditioned, in order
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    codec: Codec = PIXELS
    between: Between = "fresh"

    def sampler(self) -> Sampler:
        """The sampler from unit noise to images."""
        device, steps = next(self.denoiser.parameters()).device, len(self.times)
        latent = self.shape if steps == 1 or self.between == "ode" else (steps, *self.shape)
        return Sampler("student", steps, latent, bool(self.classes), device, self._make)

    def plan(self) -> list[dict[str, float]]:
        """The coefficients of each step: x_t = alpha x + sigma noise, then x = c_skip x_t + c_out net(c_in x_t, time).

        x starts at zero, so the sigma of the first step is the scale of the prior. A step of the ODE has, in place of
        noise, the x_t of the step before, with the factor `previous`.
        """
        denoiser, process, plan = self.denoiser, self.denoiser.process, []
        for k, index in enumerate(self.times):
            t = torch.tensor([index], device=process.alpha_grid.device)
            c_skip, c_out, c_in = denoiser.coefficients(t)
            alpha, sigma = (process.alpha(t), process.sigma(t)) if k else (0.0, process.prior_grid[t])
            numbers = {"alpha": alpha, "sigma": sigma, "c_in": c_in, "c_skip": c_skip, "c_out": c_out}
            if k and self.between == "ode":
                # x_t = alpha x + sigma eps, with eps = (x_t - alpha x) / sigma of the step before.
                before = torch.tensor([self.times[k - 1]], device=t.device)
                previous = sigma / process.sigma(before)
                numbers |= {"alpha": alpha - previous * process.alpha(before), "sigma": 0.0, "previous": previous}
            plan.append({"time": process.time(t).item(), **{name: float(v) for name, v in numbers.items()}})
        return plan

    def _make(self, z: Tensor, cond: Cond) -> Tensor:
        return self.codec.decode(generate(self.denoiser, z, self.times, cond, self.between))


def load_generator(
    folder: Path | str,
    device: torch.device | str = "cpu",
    prompts: Sequence[str] = (),
    stored: StoredTexts = NO_TEXTS,
    precision: Precision = "fp32",
) -> Generator:
    """Read the folder that `export_generator` wrote.

    prompts: the conditions of a generator that reads text, in place of the captions of its training. stored: embeddings
    of stage `encode`; for other captions than these, the text encoders of the folder compute them. precision: as
    load_teacher takes it. Raises TeacherError if the folder cannot be read, or if there are prompts for a generator
    that reads none.
    """
    folder = Path(folder)
    about = read_about(folder)
    if prompts and not about.captions:
        raise TeacherError(f"{folder}: this generator reads no prompts; give labels")
    if prompts:
        about = about.model_copy(update={"captions": list(prompts), "classes": list(prompts)})
    texts, captions = stored.of(about.captions), about.captions
    loaded = load_teacher(folder, device, captions=captions, texts=texts, precision=precision)
    net, times = about.with_levels(loaded, folder), about.timesteps
    last = net.denoiser.process.timesteps - 1
    if len(times) > last + 1 or not all(0 <= t <= last for t in times):
        raise TeacherError(
            f"{folder}: generator.json: timesteps {shorten(str(times), 200)} are not indices 0..{last}; export it again"
        )
    if about.classes and len(about.classes) > net.conditions:
        raise TeacherError(
            f"{folder}: generator.json: {len(about.classes)} classes, but the network has {net.conditions} labels; "
            "export it again"
        )
    return Generator(net.denoiser, tuple(times), net.shape, tuple(about.classes), net.codec, about.between)


class About(BaseModel):
    """The fields of generator.json that this project reads."""

    model_config = ConfigDict(strict=True, frozen=True)

    timesteps: list[int] = Field(min_length=1)
    classes: list[str]
    captions: list[str]
    between: Between = "fresh"
    levels: int | None = Field(None, ge=1, le=MOST_LEVELS)  # T, if it is not that of the scheduler

    def with_levels(self, net: Teacher, folder: Path) -> Teacher:
        """Give a loaded network the levels that `timesteps` count; return it. Raises TeacherError if it cannot be."""
        if self.levels is not None:
            try:
                set_levels(net, self.levels)
            except ValueError:
                raise TeacherError(
                    f"{folder}: generator.json: levels {self.levels} do not fit its scheduler; export it again"
                ) from None
        return net


def read_about(folder: Path) -> About:
    """Read generator.json of a folder. Raises TeacherError, in one line, if it is not what `export_generator` wrote."""
    try:
        return About.model_validate(load_json(folder / "generator.json", TeacherError))
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(quote, error["loc"])) or "the whole file"
        raise TeacherError(
            f"{folder}: generator.json: {where}: {error['msg']}; export it again (run the train stage)"
        ) from None
    except TeacherError as e:
        raise TeacherError(f"{folder} is not a generator folder: {e}") from None
