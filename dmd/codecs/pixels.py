"""The identity codec, for a network that works on the image itself."""

from torch import Tensor, nn


class Pixels(nn.Module):
    """The network works on the image."""

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, H, W], unchanged."""
        return x

    def image_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        return shape


PIXELS = Pixels()
