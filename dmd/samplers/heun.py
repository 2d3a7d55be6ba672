"""Heun's method (Karras et al. 2022, algorithm 1): the second-order solver of the teacher's ODE."""

import itertools

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.process import append_dims
from dmd.samplers.ddim import ode_times, predict_x0_and_eps


def heun(denoiser: Denoiser, z: Tensor, steps: int, cond: Cond = None) -> Tensor:
    """x0 at the end of DDIM's trajectory by Heun's method, from unit noise z [B, C, H, W], in 2 steps - 1 passes.

    The ODE is dx = x0 dalpha + eps dsigma. Each step predicts x by DDIM, then corrects it with the mean of x0 and eps
    at both ends; the last step, to sigma = 0, is DDIM alone. For EDM this is the paper's algorithm.
    """
    process = denoiser.process
    times = [torch.full((len(z),), t, device=z.device) for t in ode_times(process.timesteps, steps)]
    x = process.prior(z, times[0])
    for now, following in itertools.pairwise(times):
        x0, eps = predict_x0_and_eps(denoiser, x, now, cond)
        x0_end, eps_end = predict_x0_and_eps(denoiser, process.add_noise(x0, eps, following), following, cond)
        d_alpha = append_dims(process.alpha(following) - process.alpha(now), x.ndim).to(x.dtype)
        d_sigma = append_dims(process.sigma(following) - process.sigma(now), x.ndim).to(x.dtype)
        x = x + d_alpha * (x0 + x0_end) / 2 + d_sigma * (eps + eps_end) / 2
    return denoiser(x, times[-1], cond)
