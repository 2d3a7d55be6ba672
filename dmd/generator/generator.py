"""A finished generator: its Denoiser, the timesteps at which it is conditioned, and its classes."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmd.codecs.latents import Codec
from dmd.codecs.pixels import PIXELS
from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.errors import TeacherError
from dmd.samplers.few_step import generate
from dmd.samplers.sampler import Sampler
from dmd.teachers.teacher import load_teacher


@dataclass(frozen=True)
class Generator:
    """A network that makes an image in len(times) passes."""

    denoiser: Denoiser
    times: tuple[int, ...]  # indices at which it is conditioned, in order
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    codec: Codec = PIXELS

    def sampler(self) -> Sampler:
        """The sampler from unit noise to images."""
        device, steps = next(self.denoiser.parameters()).device, len(self.times)
        latent = self.shape if steps == 1 else (steps, *self.shape)
        return Sampler("student", steps, latent, bool(self.classes), device, self._make)

    def plan(self) -> list[dict[str, float]]:
        """The coefficients of each step: x_t = alpha x + sigma noise, then x = c_skip x_t + c_out net(c_in x_t, time).

        x starts at zero, so the sigma of the first step is the scale of the prior.
        """
        denoiser, process, plan = self.denoiser, self.denoiser.process, []
        for k, index in enumerate(self.times):
            t = torch.tensor([index], device=process.alpha_grid.device)
            c_skip, c_out, c_in = denoiser.coefficients(t)
            alpha, sigma = (process.alpha(t), process.sigma(t)) if k else (0.0, process.prior_grid[t])
            numbers = {"alpha": alpha, "sigma": sigma, "c_in": c_in, "c_skip": c_skip, "c_out": c_out}
            plan.append({"time": process.time(t).item(), **{name: float(v) for name, v in numbers.items()}})
        return plan

    def _make(self, z: Tensor, cond: Cond) -> Tensor:
        return self.codec.decode(generate(self.denoiser, z, self.times, cond))


def load_generator(folder: Path, device: torch.device) -> Generator:
    """Read the folder that `export_generator` wrote. Raises TeacherError if that fails."""
    try:
        about = json.loads((folder / "generator.json").read_text())
    except (OSError, json.JSONDecodeError) as e:
        raise TeacherError(f"{folder} is not a generator folder: generator.json cannot be read ({e})") from None
    if missing := {"timesteps", "classes", "captions"} - about.keys():
        raise TeacherError(f"{folder}: generator.json lacks {', '.join(sorted(missing))}; run the train stage again")
    net, times = load_teacher(folder, device, captions=about["captions"]), about["timesteps"]
    last = net.denoiser.process.timesteps - 1
    if not times or not all(isinstance(t, int) and 0 <= t <= last for t in times):
        raise TeacherError(f"{folder}: generator.json: timesteps {times} are not indices 0..{last}; export it again")
    return Generator(net.denoiser, tuple(times), net.shape, tuple(about["classes"]), net.codec)
