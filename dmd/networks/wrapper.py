"""The one call of every network: net(x, time, class_labels) returns an object whose `sample` is the prediction.

x [B, C, H, W] and sample [B, C, H, W]; time [B] as the process gives it; class_labels [B], indices of classes or of
captions, left out for an unconditional network. A diffusers network with a different call gets a wrapper.
"""

from typing import cast

from diffusers import ModelMixin
from torch import nn


class Wrapper(nn.Module):
    """A network of diffusers behind the one call."""

    @property
    def inner(self) -> ModelMixin:
        """The network of diffusers itself."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""
        self.inner.enable_gradient_checkpointing()


def unwrap(net: nn.Module) -> ModelMixin:
    """Return the network of diffusers behind `net`: `net.inner` for a wrapper, `net` itself otherwise."""
    return net.inner if isinstance(net, Wrapper) else cast(ModelMixin, net)
