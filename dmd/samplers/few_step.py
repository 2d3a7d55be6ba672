"""The generator's own sampler: one network pass, or a few (DMD2, section 4.5)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.process import Process, time_shift

Between = Literal["fresh", "ode"]  # what is added to x0 between two steps: fresh noise, or the predicted noise


def one_step(generator: Denoiser, z: Tensor, t: int, cond: Cond = None) -> Tensor:
    """x = G(z): the prediction of x0 from pure noise at the fixed index t, for unit noise z and x [B, C, H, W]."""
    time = torch.full((len(z),), t, device=z.device)
    return generator(generator.process.prior(z, time), time, cond)


def level_times(process: Process, sigmas: Sequence[float], shift: float = 1.0) -> tuple[int, ...]:
    """Indices of a flow's grid whose noise levels are nearest to the shifted sigmas, sigma' of `time_shift`.

    Raises ValueError for another process, and for two sigmas at one index.
    """
    if not torch.equal(process.alpha_grid, 1 - process.sigma_grid):
        raise ValueError("method.levels: noise levels can be set for a flow only; use method.generator_timestep")
    targets = time_shift(torch.tensor(sigmas, dtype=torch.float64), shift)
    indices = (process.sigma_grid.cpu() - targets[:, None]).abs().argmin(dim=1).tolist()
    if len(set(indices)) < len(indices):
        raise ValueError(f"method.levels: two of {list(sigmas)} are one of the teacher's levels; use other levels")
    return tuple(indices)


def step_times(first: int, steps: int) -> tuple[int, ...]:
    """Evenly spaced indices of a generator's steps: (999, 749, 499, 249) for first = 999 and 4 steps."""
    return tuple(first - (first + 1) * k // steps for k in range(steps))


def generate(
    generator: Denoiser, z: Tensor, times: tuple[int, ...], cond: Cond = None, between: Between = "fresh"
) -> Tensor:
    """x [B, C, H, W] in len(times) passes: predict x0 from pure noise, then go on to the next step and predict again.

    Between the steps, x0 gets fresh noise, as in diffusers' LCMScheduler, or the noise that the network predicts, which
    is a step of the ODE. z is unit noise [B, C, H, W], or [B, N, C, H, W] with that of each of N >= len(times) steps.
    Gradients flow through the last step only.
    """
    process, noises = generator.process, (z,) if z.ndim == 4 else z.unbind(1)
    steps = [torch.full((len(z),), index, device=z.device) for index in times]
    x = x_t = process.prior(noises[0], steps[0])
    for k, t in enumerate(steps):
        with torch.set_grad_enabled(torch.is_grad_enabled() and k == len(times) - 1):
            if k and between == "ode":
                x_t = process.add_noise(x, process.noise_in(x_t, x, steps[k - 1]), t)
            elif k:
                x_t = process.add_noise(x, noises[k], t)
            x = generator(x_t, t, cond)
    return x
