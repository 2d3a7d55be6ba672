"""A text-conditioned UNet whose text encoder learns with it."""

from typing import Any

from diffusers import UNet2DConditionModel
from torch import Tensor

from dmd.diffusion.networks import Adapter


class LearningCaptions(Adapter):
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

    @property
    def inner(self) -> UNet2DConditionModel:
        return self.unet
