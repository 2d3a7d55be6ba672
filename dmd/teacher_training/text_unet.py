"""A text-conditioned UNet whose text encoder learns with it."""

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from dmd.networks.wrapper import Wrapper


class TrainableTextUnet(Wrapper):
    """A UNet2DConditionModel that embeds the captions of a batch in every pass, so that its text encoder learns."""

    tokens: Tensor

    def __init__(self, unet: UNet2DConditionModel, text_encoder: nn.Module, tokens: Tensor) -> None:
        """tokens [K + 1, L]: token ids of each caption and, last, of the empty caption."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.register_buffer("tokens", tokens, persistent=False)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        captions, position = class_labels.unique(return_inverse=True)
        embeddings = self.text_encoder(self.tokens[captions])[0]
        return self.unet(x, time, encoder_hidden_states=embeddings[position])

    @property
    def inner(self) -> UNet2DConditionModel:
        return self.unet
