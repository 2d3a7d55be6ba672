"""The one contract: denoiser(x_t, t, cond) -> x0.

x_t [B, C, H, W] in the network's own scale, t [B] an index into denoiser.process, cond [B] indices of classes or
captions, or None.
Parametrisations (eps, v, sample, flow, EDM) end in this file; teacher, critic and generator are all Denoisers to
everything above it.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dmd.diffusion.process import Process, append_dims, process_of

Cond = Tensor | None

# (alpha, sigma), each [B] float64 -> (c_skip, c_out, c_in): x0 = c_skip x_t + c_out net(c_in x_t). All are affine in
# the network's output, so the network's own squared error is that of x0 divided by c_out^2, whatever it predicts.
Coefficients = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]

MOST_AMPLIFIED = 1 + 1e-6  # of the network's error, by c_out, where a generator begins: eps has 157 at the last index


def _epsilon(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """DDPM: x0 = (x_t - sigma eps) / alpha."""
    return 1 / alpha, -sigma / alpha, torch.ones_like(alpha)


def _v_prediction(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Salimans and Ho 2022: v = alpha eps - sigma x0, so x0 = alpha x_t - sigma v."""
    return alpha, -sigma, torch.ones_like(alpha)


def _sample(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x0 itself."""
    return torch.zeros_like(alpha), torch.ones_like(alpha), torch.ones_like(alpha)


def _flow(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flow matching: velocity u = eps - x0 on x_t = (1 - s) x0 + s eps, so x0 = x_t - s u."""
    return torch.ones_like(alpha), -sigma, torch.ones_like(alpha)


def edm(sigma_data: float, sign: float = 1.0) -> Coefficients:
    """Karras et al. 2022, table 1. sign -1 is diffusers' EDM schedulers with prediction_type v_prediction."""

    def coefficients(alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = sigma**2 + sigma_data**2
        return sigma_data**2 / total, sign * sigma * sigma_data / total.sqrt(), 1 / total.sqrt()

    return coefficients


PARAMETRISATIONS: dict[str, Coefficients] = {
    "epsilon": _epsilon,
    "v_prediction": _v_prediction,
    "sample": _sample,
    "flow": _flow,
}


class Denoiser(nn.Module):
    """A diffusers network, its process and its parametrisation, seen as a prediction of x0."""

    def __init__(self, net: nn.Module, process: Process, coefficients: Coefficients) -> None:
        super().__init__()
        self.net = net
        self.process = process
        self.coefficients = coefficients

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's own output, in the precision of its input."""
        extra: dict[str, Any] = {} if cond is None else {"class_labels": cond}
        x = append_dims(self._at(t)[2], x_t.ndim).to(x_t.dtype) * x_t
        return self.net(x, self.process.time(t), **extra).sample

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x0 [B, C, H, W]."""
        # The conversion amplifies errors by up to sigma/alpha: at least float32, whatever the network computes in.
        out, x_t = (v if v.dtype == torch.float64 else v.float() for v in (self.predict(x_t, t, cond), x_t))
        c_skip, c_out = (append_dims(c, x_t.ndim).to(x_t.dtype) for c in self._at(t)[:2])
        return c_skip * x_t + c_out * out

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network is trained to predict; x0 and eps [B, C, H, W], t [B]. In float64 inside: it cancels."""
        c_skip, c_out = (append_dims(c, x0.ndim) for c in self._at(t)[:2])
        x_t = self.process.add_noise(x0.double(), eps.double(), t)
        return ((x0.double() - c_skip * x_t) / c_out).to(x0.dtype)

    def loss_weight(self, t: Tensor) -> Tensor:
        """[B], float64: what turns the squared error of x0 into the loss this network was trained by, 1 / c_out^2.

        SNR for eps, SNR + 1 for v, 1 for sample, 1 / s^2 for flow, sigma^-2 + sigma_data^-2 for EDM.
        """
        return 1 / self._at(t)[1] ** 2

    def generator_timestep(self) -> int:
        """Where a generator is conditioned by default: the last index that does not amplify the network's error.

        T-1 for all but eps, whose x0 = (x_t - sigma eps) / alpha cannot be had from pure noise: where alpha = sigma.
        SDXL's one-step generators of DMD2 and those of SiD begin earlier than T-1 for the same reason.
        """
        c_out = self.coefficients(self.process.alpha_grid, self.process.sigma_grid)[1].abs()
        return int((c_out <= MOST_AMPLIFIED).nonzero().max())

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.coefficients(self.process.alpha(t), self.process.sigma(t))

    def copy(self) -> "Denoiser":
        """An independent copy with its own weights, all of them trainable."""
        return copy.deepcopy(self).requires_grad_(True)


class Guided(Denoiser):
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u), both predictions in one batched call.

    It is applied to the network's output; x0 is affine in that, so guiding x0 is the same.
    """

    def __init__(self, inner: Denoiser, scale: float, null: int) -> None:
        """null: the label that stands for no condition."""
        super().__init__(inner.net, inner.process, inner.coefficients)
        self.scale, self.null = scale, null

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        if cond is None:
            raise ValueError("guidance needs a condition")
        both = torch.cat([torch.full_like(cond, self.null), cond])
        u, c = super().predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return u + self.scale * (c - u)


def as_denoiser(net: nn.Module, scheduler: Any) -> Denoiser:
    """Adapt a diffusers network by the scheduler it was trained with. Raises ValueError for an unknown kind."""
    process, cfg, kind = process_of(scheduler), scheduler.config, type(scheduler).__name__
    if kind.startswith("FlowMatch"):
        return Denoiser(net, process, _flow)
    if kind.startswith("EDM"):
        return Denoiser(net, process, edm(cfg.sigma_data, 1.0 if cfg.prediction_type == "epsilon" else -1.0))
    if cfg.prediction_type not in PARAMETRISATIONS:
        known = ", ".join(PARAMETRISATIONS)
        raise ValueError(f"prediction_type {cfg.prediction_type!r} is not supported; known: {known}")
    if cfg.prediction_type == "epsilon" and process.alpha_grid.min() == 0:
        raise ValueError("prediction_type 'epsilon' says nothing of x0 where the schedule ends in pure noise")
    return Denoiser(net, process, PARAMETRISATIONS[cfg.prediction_type])
