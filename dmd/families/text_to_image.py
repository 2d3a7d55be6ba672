"""UNets that are conditioned on text: Stable Diffusion (one text encoder) and SDXL (two)."""

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dmd.data.shards import Rows
from dmd.diffusion.networks import Adapter
from dmd.families.captions import lookup


class Captioned(Adapter):
    """A UNet2DConditionModel that looks captions up; their embeddings are computed once."""

    def __init__(self, unet: UNet2DConditionModel, embeddings: Tensor | Rows) -> None:
        """embeddings [K, L, D]: of each caption's tokens, and last of the empty one."""
        super().__init__()
        self.unet = unet
        self.embeddings = lookup(embeddings)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        return self.unet(x, time, encoder_hidden_states=self.embeddings(class_labels))

    @property
    def inner(self) -> UNet2DConditionModel:
        return self.unet


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
