"""Activations of a denoiser's encoder, which the discriminator reads (DMD2, section 4.3).

They come from a forward pass of their own: that of a network which shares all weights and ends after the last level
that is read. No pass is stopped half-way, so a network may be compiled, sharded or checkpointed.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.networks.wrapper import TransformerWrapper, unwrap

UNET_END = ("conv_norm_out", "conv_act", "conv_out")  # layers of a UNet after its decoder


def activations(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond = None, which: str = "innermost"
) -> list[Tensor]:
    """Activations [B, C', H', W'] of the innermost level, or of every encoder level with the innermost last.

    Gradients flow through them.
    """
    outputs: list[Tensor] = []
    denoiser.run(encoder(denoiser.net, which == "encoder", outputs), x_t, t, cond)
    return outputs


class Recorder:
    """A denoiser whose whole passes keep what `activations` returns, which saves the pass that it would take."""

    def __init__(self, denoiser: Denoiser, which: str = "innermost") -> None:
        self.activations: list[Tensor] = []
        self.denoiser = _shallow_copy(denoiser)
        self.denoiser.net = encoder(denoiser.net, which == "encoder", self.activations, is_cut=False)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond = None) -> Tensor:
        """Predict x0 [B, C, H, W]; `activations` then holds those of this pass alone."""
        self.activations.clear()
        return self.denoiser(x_t, t, cond)


class _Recorded(nn.Module):
    """A block that also appends what `select` takes from its output to a list; its other attributes are the block's."""

    def __init__(self, block: nn.Module, select: Callable[[Any], Tensor], outputs: list[Tensor]) -> None:
        super().__init__()
        self.block, self.select, self.outputs = block, select, outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.block(*args, **kwargs)
        self.outputs.append(self.select(output))
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.block, name)  # diffusers asks a block which inputs it takes


def innermost(net: nn.Module) -> nn.Module:
    """The middle block of a UNet or of a transformer."""
    if isinstance(net, TransformerWrapper):
        blocks = getattr(net.transformer, net.block_lists[0])
        return blocks[len(blocks) // 2]
    return unwrap(net).mid_block


def encoder(net: nn.Module, all_levels: bool, outputs: list[Tensor], is_cut: bool = True) -> nn.Module:
    """A network that shares the weights of `net`, ends after its innermost level, and appends activations to `outputs`.

    is_cut: false to keep the rest of the network too, so that a whole pass records its activations.

    The levels of a UNet are each resolution of its encoder, before it is halved, and the middle block; those of a
    transformer are the blocks at a quarter and at half of its depth. The last one is the innermost.
    """
    net = getattr(net, "_orig_mod", net)  # the network inside torch.compile's
    inner = _shallow_copy(unwrap(net))
    if isinstance(net, TransformerWrapper):
        first, *others = net.block_lists
        blocks: list[Any] = list(getattr(inner, first))
        middle = len(blocks) // 2
        for k in {len(blocks) // 4, middle} if all_levels else {middle}:
            blocks[k] = _Recorded(blocks[k], lambda output: _to_grid(net.image_tokens(output)), outputs)
        setattr(inner, first, nn.ModuleList(blocks[: middle + 1] if is_cut else blocks))
        for name in others if is_cut else ():
            setattr(inner, name, nn.ModuleList())
    else:
        if all_levels:
            inner.down_blocks = nn.ModuleList(
                _Recorded(block, _before_halving(block), outputs) for block in inner.down_blocks
            )
        inner.mid_block = _Recorded(inner.mid_block, lambda output: output, outputs)
        if is_cut:
            inner.up_blocks = nn.ModuleList()
            for name in UNET_END:
                setattr(inner, name, nn.Identity())
    return inner if unwrap(net) is net else _with_inner(net, inner)


def _with_inner(wrapper: nn.Module, inner: nn.Module) -> nn.Module:
    """A wrapper like `wrapper` around another network."""
    new = _shallow_copy(wrapper)
    name = next(name for name, module in wrapper.named_children() if module is unwrap(wrapper))
    setattr(new, name, inner)
    return new


def _shallow_copy(module: nn.Module) -> Any:
    """A copy with the same weights and submodules, whose submodules can be replaced; it is not compiled."""
    new = object.__new__(type(module))  # copy.copy would build a sharded module anew, without its configuration
    new.__dict__.update(module.__dict__, _modules=dict(module._modules), _compiled_call_impl=None)
    return new


def _before_halving(block: Any) -> Callable[[Any], Tensor]:
    """Select the last full-resolution output of a down block, which returns one output per layer for the decoder."""
    last = -2 if block.downsamplers else -1
    return lambda output: output[1][last]


def _to_grid(tokens: Tensor) -> Tensor:
    """[B, side^2, C] -> [B, C, side, side]."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
