"""Activations of a denoiser's encoder, which the discriminator reads (DMD2, section 4.3)."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.diffusion.networks import Transformer, unwrap

Level = tuple[nn.Module, Callable[[Any], Tensor]]  # a module, and what makes a grid [B, C, H, W] of its output


def innermost(net: nn.Module) -> Level:
    """The module in the middle of a network."""
    if isinstance(net, Transformer):
        blocks = net.transformer.transformer_blocks
        return blocks[len(blocks) // 2], _grid
    return unwrap(net).mid_block, lambda output: output


def encoder_levels(net: nn.Module) -> list[Level]:
    """Each resolution on the way to the middle, before it is halved, and the middle; of a transformer a quarter of its
    blocks, and half of them."""
    if isinstance(net, Transformer):
        blocks = net.transformer.transformer_blocks
        return [(blocks[len(blocks) // 4], _grid), innermost(net)]
    return [*((block, _before_halving(block)) for block in unwrap(net).down_blocks), innermost(net)]


LEVELS: dict[str, Callable[[nn.Module], list[Level]]] = {
    "innermost": lambda net: [innermost(net)],
    "encoder": encoder_levels,
}


def _before_halving(block: Any) -> Callable[[Any], Tensor]:
    """A down block gives its output, and what each of its layers gave for the decoder: the halved one last."""
    last = -2 if block.downsamplers else -1
    return lambda output: output[1][last]


def runs_to_its_end(net: nn.Module) -> bool:
    """A pass of it cannot be left halfway: FSDP and gradient checkpointing count on its end."""
    return any(isinstance(m, FSDPModule) or getattr(m, "gradient_checkpointing", False) for m in net.modules())


def _grid(tokens: Tensor) -> Tensor:
    """[B, side^2, C] -> [B, C, side, side]."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))


class _StopForward(Exception):
    """Raised by a hook to stop the forward pass early."""


def activations(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond = None, which: str = "innermost"
) -> list[Tensor]:
    """Activations [B, C', H', W'] of the innermost level, or of each encoder level with the innermost last.

    Gradients flow through them. The forward pass stops there, unless the network needs its end.
    """
    levels, seen = LEVELS[which](denoiser.net), []
    to_its_end = runs_to_its_end(denoiser.net)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen.append(levels[len(seen)][1](output))
        if len(seen) == len(levels) and not to_its_end:
            raise _StopForward

    handles = [module.register_forward_hook(keep) for module, _ in levels]
    try:
        with contextlib.suppress(_StopForward):
            denoiser.predict(x_t, t, cond)
    finally:
        for handle in handles:
            handle.remove()
    return seen
