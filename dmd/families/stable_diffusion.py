"""A UNet on latents that is conditioned on captions by one CLIP text encoder: Stable Diffusion 1 and 2."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmd.families.family import Family, part
from dmd.families.tables import Table, Tables, new_table
from dmd.networks.wrapper import Wrapper
from dmd.training.tokenizer import tokenize


class TextUnetWrapper(Wrapper):
    """A UNet2DConditionModel that looks up the embeddings of its captions, which are computed once."""

    def __init__(self, unet: UNet2DConditionModel, embeddings: Table) -> None:
        """embeddings [K + 1, L, D]: the tokens of each caption and, last, of the empty caption."""
        super().__init__()
        self.unet = unet
        self.embeddings = new_table(embeddings)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        return self.unet(x, time, encoder_hidden_states=self.embeddings(class_labels))

    @property
    def inner(self) -> UNet2DConditionModel:
        return self.unet


def has_text_unet(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline has a text-conditioned UNet, a VAE and at least one text encoder."""
    others = (part(pipe, "vae"), part(pipe, "text_encoder"))
    return isinstance(part(pipe, "unet"), UNet2DConditionModel) and None not in others


class StableDiffusion(Family):
    """A pipeline with a UNet2DConditionModel, a VAE and one CLIP text encoder."""

    parts = "a UNet2DConditionModel, a VAE and a CLIP text encoder"
    on_latents = True
    takes_captions = True

    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        return has_text_unet(pipe) and not hasattr(pipe, "text_encoder_2")

    def network(self, pipe: DiffusionPipeline) -> UNet2DConditionModel:
        return pipe.unet

    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> TextUnetWrapper:
        return TextUnetWrapper(pipe.unet, texts["embeddings"])

    def count_conditions(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> int:
        return len(captions) + 1

    @torch.no_grad()
    def embed(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> dict[str, Tensor]:
        tokens = tokenize(pipe.tokenizer, captions).to(pipe.text_encoder.device)
        return {"embeddings": pipe.text_encoder(tokens)[0].float().cpu()}

    def embed_empty(self, pipe: DiffusionPipeline) -> dict[str, Tensor]:
        return self.embed(pipe, [""])

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [pipe.tokenizer]

    def text_encoders(self, pipe: DiffusionPipeline) -> list[PreTrainedModel]:
        return [pipe.text_encoder]
