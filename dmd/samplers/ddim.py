"""DDIM (Song et al. 2021, eta 0): the first-order solver of the teacher's ODE."""

import itertools

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.process import append_dims


def ode_times(timesteps: int, steps: int) -> tuple[int, ...]:
    """`steps` indices from T-1 down, evenly spread: diffusers' trailing spacing, so that one step works too.

    Raises ValueError for more steps than there are indices.
    """
    if steps > timesteps:
        raise ValueError(f"{steps} steps on a schedule of {timesteps}")
    return tuple(round(timesteps - k * timesteps / steps) - 1 for k in range(steps))


def ddim(denoiser: Denoiser, z: Tensor, steps: int, cond: Cond = None) -> Tensor:
    """The deterministic trajectory (DDIM, eta 0) from unit noise z [B, C, H, W], in `steps` network passes."""
    times = ode_times(denoiser.process.timesteps, steps)
    first = torch.full((len(z),), times[0], device=z.device)
    return trajectory(denoiser, denoiser.process.prior(z, first), times, cond)


def trajectory(denoiser: Denoiser, x: Tensor, indices: tuple[int, ...], cond: Cond = None) -> Tensor:
    """DDIM from x_t [B, C, H, W] at indices[0] through the others to x0 [B, C, H, W], for any process.

    x_s = alpha_s x0 + sigma_s eps, eps = (x_t - alpha_t x0) / sigma_t: Euler's method for EDM and for flow matching.
    """
    times = [torch.full((len(x),), t, device=x.device) for t in indices]
    for now, then in itertools.pairwise(times):
        x = denoiser.process.add_noise(*split_noise(denoiser, x, now, cond), then)
    return denoiser(x, times[-1], cond)


def split_noise(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """(x0, eps) of which x_t is made, by the network: eps = (x_t - alpha x0) / sigma."""
    x0 = denoiser(x, t, cond)
    alpha, sigma = (append_dims(v(t), x.ndim).to(x0.dtype) for v in (denoiser.process.alpha, denoiser.process.sigma))
    return x0, (x - alpha * x0) / sigma
