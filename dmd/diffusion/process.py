"""The forward process: x_t = alpha(t) x0 + sigma(t) eps, with t an index 0..T-1 into a grid of ascending noise."""

import math
from typing import Any

import torch
from torch import Tensor, nn


def append_dims(v: Tensor, ndim: int) -> Tensor:
    """[B] -> [B, 1, ..., 1] with `ndim` dimensions."""
    return v.reshape(v.shape[0], *[1] * (ndim - 1))


class Process(nn.Module):
    """alpha, sigma, the network's time input and the scale of pure noise, each tabulated over the grid."""

    alpha_grid: Tensor
    sigma_grid: Tensor
    prior_grid: Tensor
    time_grid: Tensor

    def __init__(self, alpha: Tensor, sigma: Tensor, prior: Tensor, time: Tensor) -> None:
        """Each argument is [T]; alpha and sigma are float64, because sigma(0) is small.

        prior is the scale of the noise that sampling from t starts with; time is the network's time input. Raises
        ValueError for a grid without levels.
        """
        super().__init__()
        if not len(alpha):
            raise ValueError("the schedule has no noise levels; num_train_timesteps must be at least 1")
        for name, grid in (("alpha", alpha), ("sigma", sigma), ("prior", prior), ("time", time)):
            self.register_buffer(f"{name}_grid", grid, persistent=False)

    @property
    def timesteps(self) -> int:
        """T, the length of the grid."""
        return len(self.alpha_grid)

    def alpha(self, t: Tensor) -> Tensor:
        """Signal level at index t [B], float64."""
        return self.alpha_grid[t]

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level at index t [B], float64."""
        return self.sigma_grid[t]

    def time(self, t: Tensor) -> Tensor:
        """Time input of the network for index t [B]."""
        return self.time_grid[t]

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps, for x0 and eps [B, ...] and t [B]."""
        alpha = append_dims(self.alpha(t), x0.ndim).to(x0.dtype)
        sigma = append_dims(self.sigma(t), x0.ndim).to(x0.dtype)
        return alpha * x0 + sigma * eps

    def noise_in(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The noise eps = (x_t - alpha(t) x0) / sigma(t) in x_t, for x_t and x0 [B, ...] at t [B]."""
        alpha, sigma = (append_dims(v(t), x_t.ndim).to(x0.dtype) for v in (self.alpha, self.sigma))
        return (x_t - alpha * x0) / sigma

    def prior(self, z: Tensor, t: Tensor) -> Tensor:
        """The x_t that sampling from index t [B] starts with, made from unit noise z [B, ...]."""
        return append_dims(self.prior_grid[t], z.ndim).to(z.dtype) * z


def ddpm_process(alphas_cumprod: Tensor) -> Process:
    """Variance-preserving process: alpha^2 = alphas_cumprod [T], sigma^2 = 1 - alphas_cumprod.

    The prior is unit noise at every t, as in diffusers, so that equal seeds give equal images.
    """
    product = alphas_cumprod.double()
    return Process(product.sqrt(), (1 - product).sqrt(), torch.ones_like(product), torch.arange(len(product)))


def edm_process(sigma_min: float, sigma_max: float, rho: float, timesteps: int) -> Process:
    """Variance-exploding process (Karras et al. 2022, eq. 5): alpha = 1, sigma on the rho grid, time ln(sigma) / 4."""
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigma = torch.linspace(low, high, timesteps, dtype=torch.float64) ** rho
    return Process(torch.ones_like(sigma), sigma, sigma, (sigma.log() / 4).float())


def time_shift(sigma: Tensor, shift: float) -> Tensor:
    """Shift noise levels of a flow: sigma' = shift sigma / (1 + (shift - 1) sigma) (Esser et al. 2024).

    It adds ln(shift) to logit(sigma): 0 and 1 stay, shifts compose by their product, and 1 / shift is the inverse.
    """
    return shift * sigma / (1 + (shift - 1) * sigma)


def shift_indices(t: Tensor, shift: float, timesteps: int) -> Tensor:
    """Indices t [B] after a time shift of their shares (t + 1) / T; for a flow, sigma is shifted by as much."""
    if shift == 1:
        return t
    shares = time_shift((t + 1).double() / timesteps, shift)
    return (shares * timesteps).round().long().clamp(1, timesteps) - 1


def flow_process(shift: float, timesteps: int, last_time: int | None = None) -> Process:
    """Rectified flow: x_t = (1 - s) x0 + s eps, with s from 1/T to 1, shifted towards noise by `time_shift`.

    The prior is unit noise at every t, as the pipelines of diffusers take it. last_time: time input of the network at
    s = 1; None stands for T.
    """
    s = time_shift(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps, shift)
    return Process(1 - s, s, torch.ones_like(s), (s * (last_time or timesteps)).float())


def is_flow(scheduler: Any) -> bool:
    """Whether a diffusers scheduler belongs to a rectified flow, as FlowMatch* and Sana's DPM solver do."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def flow_shift(scheduler: Any, mu: float | None) -> float:
    """Return the time shift of a flow scheduler: exp(mu), or mu if time_shift_type is linear, if it shifts by mu.

    Raises ValueError if it does and mu is unknown.
    """
    cfg, kind = scheduler.config, type(scheduler).__name__
    if not cfg.get("use_dynamic_shifting"):
        return cfg.shift if kind.startswith("FlowMatch") else cfg.flow_shift
    if mu is None:
        raise ValueError(f"{kind} with use_dynamic_shifting has a schedule for each image size; set it to false")
    return mu if cfg.get("time_shift_type") == "linear" else math.exp(mu)


def process_of(scheduler: Any, mu: float | None = None, levels: int | None = None) -> Process:
    """The process of a diffusers scheduler. Raises ValueError for a scheduler without a fixed schedule.

    mu: the number by which the schedule of a flow is shifted for an image size, None if it may not be. levels: T, for a
    flow or EDM, whose networks know every time; None for the scheduler's own. Options that only change the list of a
    sampler's steps, such as shift_terminal, are ignored.
    """
    cfg, kind = scheduler.config, type(scheduler).__name__
    if is_flow(scheduler):
        count = cfg.num_train_timesteps
        return flow_process(flow_shift(scheduler, mu), levels or count, count)
    if kind.startswith("EDM"):
        return edm_process(cfg.sigma_min, cfg.sigma_max, cfg.rho, levels or cfg.num_train_timesteps)
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"scheduler {kind} is not supported; known: those with alphas_cumprod, EDM*, FlowMatch*")
    if levels is not None:
        raise ValueError(
            f"method.levels.count: the network of a {kind} knows its {len(scheduler.alphas_cumprod)} times alone; set "
            "it to teacher"
        )
    return ddpm_process(scheduler.alphas_cumprod)
