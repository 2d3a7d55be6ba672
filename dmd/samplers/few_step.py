"""The generator's own sampler: one network pass, or a few with fresh noise between them (DMD2, section 4.5)."""

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser


def one_step(generator: Denoiser, z: Tensor, t: int, cond: Cond = None) -> Tensor:
    """x = G(z): the prediction of x0 from pure noise at the fixed index t, for unit noise z and x [B, C, H, W]."""
    time = torch.full((len(z),), t, device=z.device)
    return generator(generator.process.prior(z, time), time, cond)


def step_times(first: int, steps: int) -> tuple[int, ...]:
    """Evenly spaced indices of a generator's steps: (999, 749, 499, 249) for first = 999 and 4 steps."""
    return tuple(first - (first + 1) * k // steps for k in range(steps))


def generate(generator: Denoiser, z: Tensor, times: tuple[int, ...], cond: Cond = None) -> Tensor:
    """x [B, C, H, W] in len(times) passes: predict x0 from pure noise, then add fresh noise and predict again.

    z is unit noise [B, C, H, W], or [B, N, C, H, W] with the noise of each of N >= len(times) steps. diffusers'
    LCMScheduler samples in this way. Gradients flow through the last step only.
    """
    noises = (z,) if z.ndim == 4 else z.unbind(1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and len(times) == 1):
        x = one_step(generator, noises[0], times[0], cond)
    for k, time in enumerate(times[1:], start=1):
        t = torch.full((len(x),), time, device=x.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and k == len(times) - 1):
            x = generator(generator.process.add_noise(x, noises[k], t), t, cond)
    return x
