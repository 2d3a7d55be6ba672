"""DDIM (Song et al. 2021, eta = 0): the first-order solver of the teacher's ODE."""

import itertools

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser


def ode_times(timesteps: int, steps: int) -> tuple[int, ...]:
    """`steps` evenly spaced indices from T-1 down: diffusers' trailing spacing, which allows a single step.

    Raises ValueError for more steps than indices.
    """
    if steps > timesteps:
        raise ValueError(f"{steps} steps do not fit on a schedule of {timesteps}; use at most {timesteps}")
    return tuple(round(timesteps - k * timesteps / steps) - 1 for k in range(steps))


def ddim(denoiser: Denoiser, z: Tensor, steps: int, cond: Cond = None) -> Tensor:
    """x0 at the end of the deterministic trajectory from unit noise z [B, C, H, W], in `steps` network passes."""
    times = ode_times(denoiser.process.timesteps, steps)
    first = torch.full((len(z),), times[0], device=z.device)
    return trajectory(denoiser, denoiser.process.prior(z, first), times, cond)


def trajectory(denoiser: Denoiser, x: Tensor, indices: tuple[int, ...], cond: Cond = None) -> Tensor:
    """DDIM from x_t [B, C, H, W] at indices[0] through the other indices to x0 [B, C, H, W], for any process.

    x_s = alpha_s x0 + sigma_s eps, with eps = (x_t - alpha_t x0) / sigma_t. For EDM and flow matching this is Euler's
    method.
    """
    times = [torch.full((len(x),), t, device=x.device) for t in indices]
    for now, following in itertools.pairwise(times):
        x0, eps = predict_x0_and_eps(denoiser, x, now, cond)
        x = denoiser.process.add_noise(x0, eps, following)
    return denoiser(x, times[-1], cond)


def predict_x0_and_eps(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """The (x0, eps) that make up x_t according to the network: eps = (x_t - alpha x0) / sigma."""
    x0 = denoiser(x, t, cond)
    return x0, denoiser.process.noise_in(x, x0, t)
