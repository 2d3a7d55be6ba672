"""The one call of every network: net(x, time, class_labels) -> .sample, whatever it is conditioned on.

A condition is an index, of a class or of a caption. A network of diffusers with another call gets an adapter.
"""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn


class Adapter(nn.Module):
    """A network of diffusers behind the one call."""

    @property
    def inner(self) -> Any:
        """The network of diffusers itself."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""
        self.inner.enable_gradient_checkpointing()


def unwrap(net: nn.Module) -> Any:
    """The network of diffusers behind `net`: `net.inner` for an adapter, `net` itself otherwise."""
    return net.inner if isinstance(net, Adapter) else net


class Transformer(Adapter):
    """A DiTTransformer2DModel; where it predicts a variance too, that is left out."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        # In training mode diffusers drops labels by itself, from the global generator: here the trainer drops them.
        self.transformer = transformer.eval()

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> SimpleNamespace:
        out = self.transformer(x, time, class_labels).sample
        return SimpleNamespace(sample=out[:, : x.shape[1]])

    @property
    def inner(self) -> Any:
        return self.transformer
