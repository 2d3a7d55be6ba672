"""A sampler as the evaluator uses it: labels and a seed go in, batches of uint8 images come out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.diffusion.denoiser import Cond
from dmd.storage.finite import check_finite
from dmd.training.shared_work import ALONE, SharedWork


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] -> 0..255, rounded. This is the only place where images become bytes."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def draw_noise(shape: tuple[int, ...], n: int, rng: torch.Generator) -> Tensor:
    """Unit noise [n, *shape], image by image: the first k of n images are equal for every n."""
    return torch.stack([torch.randn(shape, generator=rng) for _ in range(n)]) if n else torch.empty(0, *shape)


@dataclass(frozen=True)
class Sampler:
    """A function (z, cond) -> x that takes `nfe` network passes, with the noise shape and device that it needs."""

    name: str
    nfe: int
    shape: tuple[int, ...]  # of the noise of one image
    conditional: bool
    device: torch.device
    sample: Callable[[Tensor, Cond], Tensor]

    @torch.inference_mode()
    def images(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """uint8 images [B, C, H, W] on the CPU, one per label. Without conditions, only their number counts.

        Raises NumberError for an image with NaN or infinite values, which would become bytes like any other.
        """
        return self.images_of(draw_noise(self.shape, len(labels), rng), labels)

    @torch.inference_mode()
    def images_of(self, z: Tensor, labels: Tensor) -> Tensor:
        """`images` of unit noise z [B, *shape]."""
        x = self.sample(z.to(self.device), labels.to(self.device) if self.conditional else None)
        check_finite(x, f"sampler {self.name}: an image", "use another number of steps or another network")
        return to_uint8(x).cpu()

    def batches(
        self, labels: Tensor, batch_size: int, rng: torch.Generator | int, work: SharedWork = ALONE
    ) -> Iterator[Tensor]:
        """`images` in batches, those of this process. The noise of image i depends only on (seed, i).

        rng: a random source, or its seed.
        """
        rng = torch.Generator().manual_seed(rng) if isinstance(rng, int) else rng
        parts = ((draw_noise(self.shape, len(part), rng), part) for part in labels.split(batch_size))
        for z, part in work.own(parts):
            yield self.images_of(z, part)

    def draw(self, labels: Tensor | Sequence[int], seed: int = 0, batch_size: int = 256) -> Tensor:
        """uint8 images [N, C, H, W] on the CPU, one per label, all in memory; the noise is that of `batches`."""
        return torch.cat(list(self.batches(torch.as_tensor(labels), batch_size, seed)))
