"""Heun's method (Karras et al. 2022, algorithm 1): the second-order solver of the teacher's ODE."""

import itertools

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.process import append_dims
from dmd.samplers.ddim import ode_times, split_noise


def heun(denoiser: Denoiser, z: Tensor, steps: int, cond: Cond = None) -> Tensor:
    """The same trajectory by Heun's method (Karras et al. 2022, algorithm 1), from unit noise z, in 2 steps - 1 passes.

    The ODE is dx = x0 dalpha + eps dsigma. Each step goes on by DDIM, then again with the mean of x0 and eps at both
    ends; the last, to sigma = 0, by DDIM alone. For EDM that is the paper's algorithm, and it holds for any process.
    """
    process = denoiser.process
    times = [torch.full((len(z),), t, device=z.device) for t in ode_times(process.timesteps, steps)]
    x = process.prior(z, times[0])
    for now, then in itertools.pairwise(times):
        x0, eps = split_noise(denoiser, x, now, cond)
        x0_then, eps_then = split_noise(denoiser, process.add_noise(x0, eps, then), then, cond)
        alpha, sigma = (
            append_dims(grid(then) - grid(now), x.ndim).to(x.dtype) for grid in (process.alpha, process.sigma)
        )
        x = x + alpha * (x0 + x0_then) / 2 + sigma * (eps + eps_then) / 2
    return denoiser(x, times[-1], cond)
