"""The forward process: x_t = alpha(t) x0 + sigma(t) eps, with t an index 0..T-1 into its grid."""

from typing import Any

from torch import Tensor, nn


def append_dims(v: Tensor, ndim: int) -> Tensor:
    """[B] -> [B, 1, ..., 1] with `ndim` dimensions."""
    return v.reshape(v.shape[0], *[1] * (ndim - 1))


class DDPMProcess(nn.Module):
    """Variance-preserving process of a DDPM-type model: alpha^2 = alphas_cumprod, sigma^2 = 1 - alphas_cumprod."""

    alpha_grid: Tensor
    sigma_grid: Tensor

    def __init__(self, alphas_cumprod: Tensor) -> None:
        """alphas_cumprod [T], decreasing, in [0, 1]. Square roots are taken in float64: sigma(0) is small."""
        super().__init__()
        product = alphas_cumprod.double()
        self.register_buffer("alpha_grid", product.sqrt(), persistent=False)
        self.register_buffer("sigma_grid", (1 - product).sqrt(), persistent=False)

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> "DDPMProcess":
        """From any diffusers scheduler that has alphas_cumprod (DDPM, DDIM, PNDM, LCM...)."""
        return cls(scheduler.alphas_cumprod)

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

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps; x0 and eps [B, ...], t [B]."""
        alpha = append_dims(self.alpha(t), x0.ndim).to(x0.dtype)
        sigma = append_dims(self.sigma(t), x0.ndim).to(x0.dtype)
        return alpha * x0 + sigma * eps

    def prior(self, z: Tensor) -> Tensor:
        """The terminal input made of unit noise z. As in diffusers it is z itself: equal seeds, equal images."""
        return z
