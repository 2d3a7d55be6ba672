"""The one contract: denoiser(x_t, t, cond) -> x0.

x_t [B, C, H, W] is on the network's own scale, t [B] is an index into denoiser.process, and cond [B] holds indices of
classes or captions (None for an unconditional network). Teacher, critic and generator are all Denoisers: code
outside this file does not distinguish eps, v, flow and EDM parametrisations.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dmd.config import EVERYWHERE
from dmd.diffusion.process import Process, append_dims, is_flow, process_of
from dmd.networks.half import own_precision

Cond = Tensor | None

MAX_AMPLIFICATION = 1 + 1e-6  # largest |c_out| at which a generator may start; eps-prediction has 157 at T-1


class Coefficients(NamedTuple):
    """x0 = c_skip x_t + c_out net(c_in x_t). Each is [B] (or [T]), float64.

    x0 is affine in the network's output, so the squared error of the output is that of x0 divided by c_out^2.
    """

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


Rescale = Callable[[Tensor, Tensor], Tensor]  # (guided output, output with the condition) -> output
Parametrisation = Callable[[Tensor, Tensor], Coefficients]  # (alpha, sigma), each [B] float64


def _epsilon(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """DDPM: x0 = (x_t - sigma eps) / alpha."""
    c_skip = 1 / alpha
    c_out = -sigma / alpha
    c_in = torch.ones_like(alpha)
    return Coefficients(c_skip, c_out, c_in)


def _v_prediction(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """Salimans and Ho 2022: v = alpha eps - sigma x0, so x0 = alpha x_t - sigma v."""
    c_skip = alpha
    c_out = -sigma
    c_in = torch.ones_like(alpha)
    return Coefficients(c_skip, c_out, c_in)


def _sample(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """The network predicts x0 itself."""
    c_skip = torch.zeros_like(alpha)
    c_out = torch.ones_like(alpha)
    c_in = torch.ones_like(alpha)
    return Coefficients(c_skip, c_out, c_in)


def _flow(alpha: Tensor, sigma: Tensor) -> Coefficients:
    """Flow matching: velocity u = eps - x0 on x_t = (1 - s) x0 + s eps, so x0 = x_t - s u."""
    c_skip = torch.ones_like(alpha)
    c_out = -sigma
    c_in = torch.ones_like(alpha)
    return Coefficients(c_skip, c_out, c_in)


def edm(sigma_data: float, sign: float = 1.0) -> Parametrisation:
    """Karras et al. 2022, table 1. sign -1 stands for diffusers' EDM schedulers with prediction_type v_prediction."""

    def coefficients(alpha: Tensor, sigma: Tensor) -> Coefficients:
        total = sigma**2 + sigma_data**2
        c_skip = sigma_data**2 / total
        c_out = sign * sigma * sigma_data / total.sqrt()
        c_in = 1 / total.sqrt()
        return Coefficients(c_skip, c_out, c_in)

    return coefficients


PARAMETRISATIONS: dict[str, Parametrisation] = {
    "epsilon": _epsilon,
    "v_prediction": _v_prediction,
    "sample": _sample,
    "flow": _flow,
}


class Denoiser(nn.Module):
    """A predictor of x0: a diffusers network with its process and its parametrisation."""

    def __init__(self, net: nn.Module, process: Process, parametrisation: Parametrisation) -> None:
        super().__init__()
        self.net = net
        self.process = process
        self.parametrisation = parametrisation

    def coefficients(self, t: Tensor) -> Coefficients:
        """c_skip, c_out and c_in at index t [B]."""
        return self.parametrisation(self.process.alpha(t), self.process.sigma(t))

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The network's own output [B, C, H, W], in the precision of its input."""
        return self.run(self.net, x_t, t, cond).sample

    def run(self, net: nn.Module, x_t: Tensor, t: Tensor, cond: Cond) -> Any:
        """Call a network with the same inputs as this denoiser's own: `net` itself, or a part of it."""
        c_in = append_dims(self.coefficients(t).c_in, x_t.ndim).to(x_t.dtype)
        with own_precision(net, x_t):
            return net(c_in * x_t, self.process.time(t), **self.conditioning(cond))

    def conditioning(self, cond: Cond) -> dict[str, Any]:
        """Keyword arguments of the network: its inputs beside x_t and the time."""
        return {} if cond is None else {"class_labels": cond}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """Predict x0 [B, C, H, W] from x_t [B, C, H, W]."""
        # The conversion amplifies errors by up to sigma/alpha, so it runs in float32 even if the network does not.
        out, x_t = (v if v.dtype == torch.float64 else v.float() for v in (self.predict(x_t, t, cond), x_t))
        c_skip, c_out = (append_dims(c, x_t.ndim).to(x_t.dtype) for c in self.coefficients(t)[:2])
        return c_skip * x_t + c_out * out

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The network's training target for x0 and eps [B, C, H, W] at t [B].

        target = (x0 - c_skip x_t) / c_out, computed in float64 because the difference cancels.
        """
        c_skip, c_out = (append_dims(c, x0.ndim) for c in self.coefficients(t)[:2])
        x_t = self.process.add_noise(x0.double(), eps.double(), t)
        return ((x0.double() - c_skip * x_t) / c_out).to(x0.dtype)

    def loss_weight(self, t: Tensor) -> Tensor:
        """1 / c_out^2 [B], float64, which turns the squared error of x0 into the network's own training loss.

        It is SNR for eps, SNR + 1 for v, 1 for sample, 1 / s^2 for flow, sigma^-2 + sigma_data^-2 for EDM.
        """
        return 1 / self.coefficients(t).c_out ** 2

    def default_generator_timestep(self) -> int:
        """The last index that does not amplify the network's error; a generator starts there by default.

        It is T-1, except for eps-prediction, where recovering x0 from pure noise amplifies the error; there, it is the
        last t with alpha >= sigma. DMD2's one-step generator of SDXL and those of SiD also start before T-1.
        """
        c_out = self.parametrisation(self.process.alpha_grid, self.process.sigma_grid).c_out.abs()
        return int((c_out <= MAX_AMPLIFICATION).nonzero().max())

    def copy(self) -> "Denoiser":
        """An independent copy with its own weights, all of them trainable."""
        return copy.deepcopy(self).requires_grad_(True)


def keep_deviation(guided: Tensor, cond: Tensor) -> Tensor:
    """Scale a guided output to the standard deviation of each image without guidance (Lin et al. 2023, eq. 15)."""
    dims = tuple(range(1, cond.ndim))
    return guided * (cond.std(dims, keepdim=True) / guided.std(dims, keepdim=True))


class Guided(Denoiser):
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u), with both predictions in one batched call.

    Guidance acts on the network's output. x0 is affine in the output, so guiding x0 gives equal results.
    """

    def __init__(
        self,
        inner: Denoiser,
        scale: float,
        null: int,
        interval: tuple[float, float] = EVERYWHERE,
        rescale: Rescale | None = None,
        share: float = 0.0,
    ) -> None:
        """null: the label for "no condition". rescale: a function of the guided and of the conditional output.

        share: part of the guided output that then gets the standard deviation of that with the condition.
        interval: lowest and highest t that are guided, as shares of T (Kynkaanniemi et al. 2024).
        """
        super().__init__(inner.net, inner.process, inner.parametrisation)
        self.scale, self.null, self.interval, self.rescale = scale, null, interval, rescale
        self.share = share

    @property
    def unguided(self) -> Denoiser:
        """The denoiser inside, with the same weights."""
        return Denoiser(self.net, self.process, self.parametrisation)

    def predict_both(self, x_t: Tensor, t: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """Unguided predictions of x0 [B, C, H, W], with the condition and without it, in one batched call."""
        both = torch.cat([cond, torch.full_like(cond, self.null)])
        c, u = self.unguided(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        return c, u

    def is_guided(self, t: Tensor) -> Tensor:
        """Whether t [B] lies in the interval."""
        low, high = (share * self.process.timesteps for share in self.interval)
        return (t >= low) & (t <= high)

    def predict(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The guided output of the network, or its conditional one outside of the interval.

        Raises ValueError without a condition.
        """
        if cond is None:
            raise ValueError("guidance needs a condition")
        both = torch.cat([torch.full_like(cond, self.null), cond])
        u, c = super().predict(torch.cat([x_t, x_t]), torch.cat([t, t]), both).chunk(2)
        guided = u + self.scale * (c - u)
        if self.rescale is not None:
            guided = self.rescale(guided, c)
        if self.share > 0:
            guided = torch.lerp(guided, keep_deviation(guided, c), self.share)
        if self.interval == EVERYWHERE:
            return guided
        return torch.where(append_dims(self.is_guided(t), c.ndim), guided, c)


class GuidedByInput(Denoiser):
    """A network that takes the guidance scale as an input, since it was distilled from guided predictions: FLUX.1-dev.

    Each prediction takes one pass, with the condition. Such a network outside of this class gets the scale 1.
    """

    def __init__(self, inner: Denoiser, scale: float) -> None:
        super().__init__(inner.net, inner.process, inner.parametrisation)
        self.scale = scale

    def conditioning(self, cond: Cond) -> dict[str, Any]:
        """Keyword arguments of the network: captions' indices and the guidance scale."""
        return {"class_labels": cond, "guidance": self.scale}


def as_denoiser(net: nn.Module, scheduler: Any, mu: float | None = None) -> Denoiser:
    """Adapt a diffusers network by its training scheduler. Raises ValueError for one that is not supported.

    mu: the number by which the schedule of a flow is shifted for an image size.
    """
    process, cfg, kind = process_of(scheduler, mu), scheduler.config, type(scheduler).__name__
    if is_flow(scheduler):
        return Denoiser(net, process, _flow)
    if kind.startswith("EDM"):
        return Denoiser(net, process, edm(cfg.sigma_data, 1.0 if cfg.prediction_type == "epsilon" else -1.0))
    if cfg.prediction_type not in PARAMETRISATIONS:
        known = ", ".join(PARAMETRISATIONS)
        raise ValueError(f"prediction_type {cfg.prediction_type!r} is not supported; known: {known}")
    if cfg.prediction_type == "epsilon" and process.alpha_grid.min() == 0:
        raise ValueError("prediction_type 'epsilon' cannot give x0 at alpha = 0, where this schedule ends")
    return Denoiser(net, process, PARAMETRISATIONS[cfg.prediction_type])
