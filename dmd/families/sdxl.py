"""A UNet on latents that is conditioned on captions by two CLIP text encoders: SDXL (Podell et al. 2023)."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmd.families.family import part
from dmd.families.stable_diffusion import StableDiffusion, TextUnetWrapper, has_text_unet
from dmd.families.tables import Table, Tables, new_table


class SdxlWrapper(TextUnetWrapper):
    """A UNet2DConditionModel that is also conditioned on each caption as a whole, and on the size of the image."""

    time_ids: Tensor

    def __init__(self, unet: UNet2DConditionModel, embeddings: Table, pooled: Table, size: tuple[int, int]) -> None:
        """embeddings [K + 1, L, D], pooled [K + 1, D']; size: (H, W), both original and target, without a crop."""
        super().__init__(unet, embeddings)
        self.pooled = new_table(pooled)
        self.register_buffer("time_ids", torch.tensor([*size, 0.0, 0.0, *size]), persistent=False)

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        added = {"text_embeds": self.pooled(class_labels), "time_ids": self.time_ids.expand(len(x), -1)}
        return self.unet(x, time, encoder_hidden_states=self.embeddings(class_labels), added_cond_kwargs=added)


class Sdxl(StableDiffusion):
    """A pipeline with a UNet2DConditionModel, a VAE and two CLIP text encoders."""

    parts = "a UNet2DConditionModel, a VAE and two CLIP text encoders"

    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        return has_text_unet(pipe) and part(pipe, "text_encoder_2") is not None

    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> SdxlWrapper:
        size: Any = pipe.unet.config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        factor = pipe.vae_scale_factor
        return SdxlWrapper(pipe.unet, texts["embeddings"], texts["pooled"], (height * factor, width * factor))

    @torch.no_grad()
    def embed(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> dict[str, Tensor]:
        device = pipe.text_encoder.device
        tokens, _, pooled, _ = pipe.encode_prompt(list(captions), device=device, do_classifier_free_guidance=False)
        return {"embeddings": tokens.float().cpu(), "pooled": pooled.float().cpu()}

    def embed_empty(self, pipe: DiffusionPipeline) -> dict[str, Tensor]:
        """Return the empty caption's rows, or zeros if the network was trained with zeros for it."""
        empty = self.embed(pipe, [""])
        zeros = pipe.config["force_zeros_for_empty_prompt"]
        return {name: torch.zeros_like(row) for name, row in empty.items()} if zeros else empty

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [pipe.tokenizer, pipe.tokenizer_2]

    def text_encoders(self, pipe: DiffusionPipeline) -> list[PreTrainedModel]:
        return [pipe.text_encoder, pipe.text_encoder_2]
