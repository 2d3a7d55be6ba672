"""FD-loss (2026): the Fréchet distance of generated to training images as a loss, with running moments.

One batch is too small for a covariance of hundreds of features, so its moments are mixed with those of the batches
before; the gradient passes through the present batch alone.
"""

import torch
from torch import Tensor, nn

DAMPING = 0.01  # added to the distance that a loss is divided by


def frechet_distance(mean: Tensor, second: Tensor, real_mean: Tensor, real_root: Tensor, real_trace: Tensor) -> Tensor:
    """Fréchet distance |m - m_r|^2 + tr C + tr C_r - 2 sum_i sqrt(l_i) of two Gaussians; a scalar.

    l_i are the eigenvalues of S C S with S = C_r^(1/2) = real_root [D, D], so the sum is tr (C C_r)^(1/2). mean [D] and
    second [D, D] are the moments E f and E f f^T of generated images, so C = second - mean mean^T. real_trace is tr
    C_r. Eigenvalues within rounding of zero count as zero and pass no gradient, which would be infinite.
    """
    covariance = second - torch.outer(mean, mean)
    product = real_root @ covariance @ real_root
    eigenvalues = torch.linalg.eigvalsh((product + product.T) / 2)
    floor = eigenvalues.detach().abs().amax() * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    is_positive = eigenvalues > floor
    roots = torch.where(is_positive, torch.where(is_positive, eigenvalues, 1.0).sqrt(), 0.0)
    return (mean - real_mean).square().sum() + covariance.trace() + real_trace - 2 * roots.sum()


def damped(distance: Tensor) -> Tensor:
    """Distance over its size, distance / (stopgrad(distance) + 0.01): networks count alike in their sum."""
    return distance / (distance.detach() + DAMPING)


class Sums:
    """Sums of features and of their products, from which moments follow."""

    def __init__(self) -> None:
        self.count, self.first, self.second = 0, torch.zeros(()), torch.zeros(())

    def add(self, features: Tensor) -> None:
        """Add features [B, D]."""
        first, second = features.sum(dim=0), features.T @ features
        self.first, self.second = (first, second) if not self.count else (self.first + first, self.second + second)
        self.count += len(features)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the moments E f [D] and E f f^T [D, D]."""
        return self.first / self.count, self.second / self.count


class RunningMoments(nn.Module):
    """Moments of training images, and running moments of generated ones, for one network of D features.

    All are buffers in float64: a checkpoint holds them, and no optimizer does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        for name in ("real_mean", "mean"):
            self.register_buffer(name, torch.zeros(width, dtype=torch.float64))
        for name in ("real_root", "second"):
            self.register_buffer(name, torch.zeros(width, width, dtype=torch.float64))
        self.register_buffer("real_trace", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def start(self, real: Sums, generated: Sums) -> None:
        """Set the moments of training images, and start the running moments from those of generated ones."""
        mean, second = real.moments()
        values, vectors = torch.linalg.eigh(second - torch.outer(mean, mean))
        values = values.clamp_min(0)
        self.get_buffer("real_mean").copy_(mean)
        self.get_buffer("real_root").copy_(vectors * values.sqrt() @ vectors.T)
        self.get_buffer("real_trace").copy_(values.sum())
        for name, value in zip(("mean", "second"), generated.moments(), strict=True):
            self.get_buffer(name).copy_(value)

    def mixed(self, features: Tensor, decay: float) -> tuple[Tensor, Tensor]:
        """Moments [D] and [D, D]: decay running + (1 - decay) those of a batch [B, D], which passes gradients."""
        first, second = features.mean(dim=0), features.T @ features / len(features)
        mean, running = self.get_buffer("mean"), self.get_buffer("second")
        return decay * mean + (1 - decay) * first, decay * running + (1 - decay) * second

    def distance(self, features: Tensor, decay: float) -> Tensor:
        """The Fréchet distance between the mixed moments and those of training images; a scalar."""
        real = (self.get_buffer(name) for name in ("real_mean", "real_root", "real_trace"))
        return frechet_distance(*self.mixed(features, decay), *real)

    @torch.no_grad()
    def move(self, features: Tensor, decay: float) -> None:
        """Replace the running moments by the mixed ones, unless a feature is not finite."""
        is_finite = features.isfinite().all()
        for name, value in zip(("mean", "second"), self.mixed(features, decay), strict=True):
            running = self.get_buffer(name)
            running.copy_(torch.where(is_finite, value, running))
