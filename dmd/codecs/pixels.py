"""The identity codec, for a network that works on the image itself."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """The codec of a network that works on pixels: images pass through it unchanged."""

    def encode(self, images: Tensor) -> Tensor:
        """Return [B, C, H, W] unchanged."""
        return images

    def decode(self, x: Tensor) -> Tensor:
        """Return [B, C, H, W] unchanged."""
        return x

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return (C, H, W) of the image that a network output of `shape` becomes."""
        return shape


PIXELS = Pixels()
