"""Activations of a denoiser's encoder, which the discriminator reads (DMD2, section 4.3)."""

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dmd.diffusion.denoiser import Cond, Denoiser
from dmd.networks.dit import DitWrapper
from dmd.networks.wrapper import unwrap

Level = tuple[nn.Module, Callable[[Any], Tensor]]  # a module, and how its output becomes activations [B, C, H, W]


class _StopForward(Exception):
    """Raised by a hook to stop the forward pass early."""


def activations(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, cond: Cond = None, which: str = "innermost"
) -> list[Tensor]:
    """Activations [B, C', H', W'] of the innermost level, or of every encoder level with the innermost last.

    Gradients flow through them. The forward pass stops there, unless the network must run to its end.
    """
    levels, outputs = LEVELS[which](denoiser.net), list[Tensor]()
    must_finish = must_run_to_end(denoiser.net)

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(levels[len(outputs)][1](output))
        if len(outputs) == len(levels) and not must_finish:
            raise _StopForward

    handles = [module.register_forward_hook(keep) for module, _ in levels]
    try:
        with contextlib.suppress(_StopForward):
            denoiser.predict(x_t, t, cond)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def innermost(net: nn.Module) -> Level:
    """The middle block of a UNet or of a transformer."""
    if isinstance(net, DitWrapper):
        blocks = net.transformer.transformer_blocks
        return blocks[len(blocks) // 2], _to_grid
    return unwrap(net).mid_block, lambda output: output


def encoder_levels(net: nn.Module) -> list[Level]:
    """Each resolution of a UNet's encoder, before it is halved, and the middle block.

    For a transformer, these are the blocks at a quarter and at half of its depth.
    """
    if isinstance(net, DitWrapper):
        blocks = net.transformer.transformer_blocks
        return [(blocks[len(blocks) // 4], _to_grid), innermost(net)]
    return [*((block, _before_halving(block)) for block in unwrap(net).down_blocks), innermost(net)]


LEVELS: dict[str, Callable[[nn.Module], list[Level]]] = {
    "innermost": lambda net: [innermost(net)],
    "encoder": encoder_levels,
}


def _before_halving(block: Any) -> Callable[[Any], Tensor]:
    """Select the last full-resolution output of a down block, which returns one output per layer for the decoder."""
    last = -2 if block.downsamplers else -1
    return lambda output: output[1][last]


def must_run_to_end(net: nn.Module) -> bool:
    """Whether a forward pass must not be stopped early: FSDP and gradient checkpointing rely on its end."""
    return any(isinstance(m, FSDPModule) or getattr(m, "gradient_checkpointing", False) for m in net.modules())


def _to_grid(tokens: Tensor) -> Tensor:
    """[B, side^2, C] -> [B, C, side, side]."""
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
