"""The one contract: denoiser(x_t, t, cond) -> x0.

x_t [B, C, H, W] in the network's own scale, t [B] an index into denoiser.process, cond class labels [B] or None.
Parametrisations (eps, v) end in this file; teacher, critic and generator are all Denoisers to everything above it.
"""

import copy
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from dmd.processes import DDPMProcess, append_dims

Cond = Tensor | None


class Denoiser(nn.Module):
    """A diffusers network and its process, seen as a prediction of x0."""

    def __init__(self, net: nn.Module, process: DDPMProcess) -> None:
        super().__init__()
        self.net = net
        self.process = process

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's own output, in the precision of its input."""
        extra: dict[str, Any] = {} if cond is None else {"class_labels": cond}
        return self.net(x_t, t, **extra).sample

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """x0 [B, C, H, W]."""
        # The conversion amplifies errors by up to sigma/alpha: at least float32, whatever the network computes in.
        out, x_t = (v if v.dtype == torch.float64 else v.float() for v in (self.predict(x_t, t, cond), x_t))
        alpha = append_dims(self.process.alpha(t), x_t.ndim).to(x_t.dtype)
        sigma = append_dims(self.process.sigma(t), x_t.ndim).to(x_t.dtype)
        return self.to_x0(out, x_t, alpha, sigma)

    def features(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """The network's innermost activations [B, C', H', W'], through which gradients flow."""
        seen: list[Tensor] = []

        def _keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            seen.append(output)

        inner: nn.Module = self.net.mid_block  # type: ignore[assignment]
        handle = inner.register_forward_hook(_keep)
        try:
            self.predict(x_t, t, cond)
        finally:
            handle.remove()
        return seen[0]

    @staticmethod
    @abstractmethod
    def to_x0(out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The network's output as x0."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """What the network is trained to predict; x0 and eps [B, C, H, W], t [B]."""

    @abstractmethod
    def loss_weight(self, t: Tensor) -> Tensor:
        """[B], float64: the weight that turns the squared error of x0 into the loss this network was trained by."""

    def copy(self) -> "Denoiser":
        """An independent copy with its own weights, all of them trainable."""
        return copy.deepcopy(self).requires_grad_(True)


class EpsDenoiser(Denoiser):
    """eps-prediction (DDPM): x0 = (x_t - sigma eps) / alpha."""

    @staticmethod
    def to_x0(out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return (x_t - sigma * out) / alpha

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        return eps

    def loss_weight(self, t: Tensor) -> Tensor:
        """|eps - eps_hat|^2 = (alpha / sigma)^2 |x0 - x0_hat|^2: the SNR."""
        return (self.process.alpha(t) / self.process.sigma(t)) ** 2


class VDenoiser(Denoiser):
    """v-prediction (Salimans and Ho 2022), v = alpha eps - sigma x0: x0 = alpha x_t - sigma v."""

    @staticmethod
    def to_x0(out: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * x_t - sigma * out

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (append_dims(v, x0.ndim).to(x0.dtype) for v in (self.process.alpha(t), self.process.sigma(t)))
        return alpha * eps - sigma * x0

    def loss_weight(self, t: Tensor) -> Tensor:
        """|v - v_hat|^2 = |x0 - x0_hat|^2 / sigma^2, that is SNR + 1."""
        return 1 / self.process.sigma(t) ** 2


DENOISERS: dict[str, type[Denoiser]] = {"epsilon": EpsDenoiser, "v_prediction": VDenoiser}


def as_denoiser(net: nn.Module, scheduler: Any) -> Denoiser:
    """Adapt a diffusers network by the scheduler it was trained with. Raises ValueError for an unknown kind."""
    kind = scheduler.config.prediction_type
    if kind not in DENOISERS:
        raise ValueError(f"prediction_type {kind!r} is not supported; known: {', '.join(DENOISERS)}")
    return DENOISERS[kind](net, DDPMProcess.from_scheduler(scheduler))
