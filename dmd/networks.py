"""Networks of diffusers behind one call, net(x, time, class_labels) -> .sample, whatever they are conditioned on.

A condition is an index: of a class, or of a caption. What a network is told of it is settled here.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from dmd.shards import Rows
from dmd.texts import lookup


class Captioned(nn.Module):
    """A UNet2DConditionModel that looks captions up; their embeddings are computed once."""

    def __init__(self, unet: UNet2DConditionModel, embeddings: Tensor | Rows) -> None:
        """embeddings [K, L, D]: of each caption's tokens, and last of the empty one."""
        super().__init__()
        self.unet = unet
        self.embeddings = lookup(embeddings)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        return self.unet(x, time, encoder_hidden_states=self.embeddings(class_labels))

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()


class CaptionedXL(Captioned):
    """A UNet2DConditionModel of SDXL, which is also told of each caption as a whole, and of the image's size."""

    time_ids: Tensor

    def __init__(
        self, unet: UNet2DConditionModel, embeddings: Tensor | Rows, pooled: Tensor | Rows, size: tuple[int, int]
    ) -> None:
        """pooled [K, D'] beside embeddings [K, L, D]; size (H, W): of the original and of the target, uncropped."""
        super().__init__(unet, embeddings)
        self.pooled = lookup(pooled)
        self.register_buffer("time_ids", torch.tensor([*size, 0.0, 0.0, *size]), persistent=False)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        added = {"text_embeds": self.pooled(class_labels), "time_ids": self.time_ids.expand(len(x), -1)}
        return self.unet(x, time, encoder_hidden_states=self.embeddings(class_labels), added_cond_kwargs=added)


class LearningCaptions(nn.Module):
    """The same while the text encoder learns too: the embeddings of a batch's captions are made anew in every pass."""

    tokens: Tensor

    def __init__(self, unet: UNet2DConditionModel, text_encoder: Any, tokens: Tensor) -> None:
        """tokens [K, L]: of each caption, and last of the empty one."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        present, place = class_labels.unique(return_inverse=True)
        embeddings = self.text_encoder(self.tokens[present])[0]
        return self.unet(x, time, encoder_hidden_states=embeddings[place])


class Transformer(nn.Module):
    """A DiTTransformer2DModel; where it predicts a variance too, that is left out."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        # In training mode diffusers drops labels by itself, from the global generator: here the trainer drops them.
        self.transformer = transformer.eval()

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> SimpleNamespace:
        out = self.transformer(x, time, class_labels).sample
        return SimpleNamespace(sample=out[:, : x.shape[1]])

    def enable_gradient_checkpointing(self) -> None:
        self.transformer.enable_gradient_checkpointing()


def bare(net: nn.Module) -> Any:
    """The network of diffusers itself."""
    if isinstance(net, Captioned | LearningCaptions):
        return net.unet
    return net.transformer if isinstance(net, Transformer) else net


Level = tuple[nn.Module, Callable[[Any], Tensor]]  # a module, and what makes a grid [B, C, H, W] of its output


def innermost(net: nn.Module) -> Level:
    """The module in the middle of a network."""
    if isinstance(net, Transformer):
        blocks = net.transformer.transformer_blocks
        return blocks[len(blocks) // 2], _grid
    return bare(net).mid_block, lambda output: output


def encoder_levels(net: nn.Module) -> list[Level]:
    """Each resolution on the way to the middle, before it is halved, and the middle; of a transformer a quarter of its
    blocks, and half of them."""
    if isinstance(net, Transformer):
        blocks = net.transformer.transformer_blocks
        return [(blocks[len(blocks) // 4], _grid), innermost(net)]
    return [*((block, _before_halving(block)) for block in bare(net).down_blocks), innermost(net)]


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
