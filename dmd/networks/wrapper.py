"""The one call of every network: net(x, time, class_labels) returns an object whose `sample` is the prediction.

x [B, C, H, W] and sample [B, C, H, W]; time [B] as the process gives it; class_labels [B], indices of classes or of
captions, left out for an unconditional network. A diffusers network with a different call gets a wrapper.
"""

from typing import Any, cast

from diffusers import ModelMixin
from torch import Tensor, nn


class Wrapper(nn.Module):
    """A network of diffusers behind the one call."""

    @property
    def inner(self) -> ModelMixin:
        """The network of diffusers itself."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in the backward pass."""
        self.inner.enable_gradient_checkpointing()


class TransformerWrapper(Wrapper):
    """A transformer of diffusers behind the one call; its blocks lie in lists that run one after another."""

    transformer: ModelMixin
    block_lists: tuple[str, ...] = ("transformer_blocks",)  # the first one holds the network's encoder
    lora_targets: tuple[str, ...] = ()  # layers that adapters change beside those of all networks

    @property
    def inner(self) -> ModelMixin:
        return self.transformer

    def image_tokens(self, output: Any) -> Tensor:
        """Return the image's tokens [B, N, C] from the output of a block in the first list."""
        return output


def unwrap(net: nn.Module) -> ModelMixin:
    """Return the network of diffusers behind `net`: `net.inner` for a wrapper, `net` itself otherwise."""
    return net.inner if isinstance(net, Wrapper) else cast(ModelMixin, net)
