"""From noise to images: the generator's one step, the teacher's deterministic sampler, and batches of either."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.denoisers import Cond, Denoiser
from dmd.processes import append_dims


def one_step(generator: Denoiser, z: Tensor, t: int, cond: Cond = None) -> Tensor:
    """x = G(z): x0 predicted from pure noise at the fixed index t. z [B, C, H, W] unit noise -> x [B, C, H, W]."""
    time = torch.full((len(z),), t, device=z.device)
    return generator(generator.process.prior(z, time), time, cond)


def step_times(first: int, steps: int) -> tuple[int, ...]:
    """Indices at which a generator of several steps is conditioned, evenly spread: 999, 749, 499, 249 for (999, 4)."""
    return tuple(first - (first + 1) * k // steps for k in range(steps))


def generate(generator: Denoiser, z: Tensor, times: tuple[int, ...], cond: Cond = None) -> Tensor:
    """x [B, C, H, W] in len(times) passes: x0 from pure noise, then noised anew to each next index and predicted again.

    z is unit noise [B, C, H, W], or [B, N, C, H, W] with noise of its own for each of N >= len(times) steps (DMD2,
    section 4.5; diffusers' LCMScheduler samples so). Gradients flow through the last step alone.
    """
    noises = (z,) if z.ndim == 4 else z.unbind(1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and len(times) == 1):
        x = one_step(generator, noises[0], times[0], cond)
    for k, time in enumerate(times[1:], start=1):
        t = torch.full((len(x),), time, device=x.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and k == len(times) - 1):
            x = generator(generator.process.add_noise(x, noises[k], t), t, cond)
    return x


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
        x = denoiser.process.add_noise(*_split(denoiser, x, now, cond), then)
    return denoiser(x, times[-1], cond)


def heun(denoiser: Denoiser, z: Tensor, steps: int, cond: Cond = None) -> Tensor:
    """The same trajectory by Heun's method (Karras et al. 2022, algorithm 1), from unit noise z, in 2 steps - 1 passes.

    The ODE is dx = x0 dalpha + eps dsigma. Each step goes on by DDIM, then again with the mean of x0 and eps at both
    ends; the last, to sigma = 0, by DDIM alone. For EDM that is the paper's algorithm, and it holds for any process.
    """
    process = denoiser.process
    times = [torch.full((len(z),), t, device=z.device) for t in ode_times(process.timesteps, steps)]
    x = process.prior(z, times[0])
    for now, then in itertools.pairwise(times):
        x0, eps = _split(denoiser, x, now, cond)
        x0_then, eps_then = _split(denoiser, process.add_noise(x0, eps, then), then, cond)
        alpha, sigma = (
            append_dims(grid(then) - grid(now), x.ndim).to(x.dtype) for grid in (process.alpha, process.sigma)
        )
        x = x + alpha * (x0 + x0_then) / 2 + sigma * (eps + eps_then) / 2
    return denoiser(x, times[-1], cond)


def _split(denoiser: Denoiser, x: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
    """(x0, eps) of which x_t is made, by the network: eps = (x_t - alpha x0) / sigma."""
    x0 = denoiser(x, t, cond)
    alpha, sigma = (append_dims(v(t), x.ndim).to(x0.dtype) for v in (denoiser.process.alpha, denoiser.process.sigma))
    return x0, (x - alpha * x0) / sigma


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded; the one place where images become bytes."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def draw_noise(shape: tuple[int, ...], n: int, rng: torch.Generator) -> Tensor:
    """Unit noise [n, *shape], image by image: the first k of n images are the same for every n."""
    return torch.stack([torch.randn(shape, generator=rng) for _ in range(n)]) if n else torch.empty(0, *shape)


@dataclass(frozen=True)
class Sampler:
    """Something that makes images: (z, cond) -> x in `nfe` network passes."""

    name: str
    nfe: int
    shape: tuple[int, ...]  # of the noise of one image
    conditional: bool
    device: torch.device
    make: Callable[[Tensor, Cond], Tensor]

    @torch.inference_mode()
    def images(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """uint8 images [B, C, H, W] on the CPU, one per label (only their number counts without conditions)."""
        z = draw_noise(self.shape, len(labels), rng).to(self.device)
        return to_uint8(self.make(z, labels.to(self.device) if self.conditional else None)).cpu()

    def batches(self, labels: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
        """`images` in batches. The noise of image i depends on (seed, i) only, not on batch_size."""
        rng = torch.Generator().manual_seed(seed)
        for part in labels.split(batch_size):
            yield self.images(part, rng)
