"""Sana (Xie et al. 2024): linear attention on the latents of a deep-compression autoencoder, text by Gemma."""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from torch import Tensor

from dmd.data.sequences import Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import Texts, TextTransformerFamily, padded

INSTRUCTION: list[str] = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class Sana(TextTransformerFamily):
    """Sana, whose pipeline puts an instruction before each caption, but not before the empty one for guidance."""

    network_class, pipeline_class = SanaTransformer2DModel, SanaPipeline
    lora_targets = ("conv_inverted", "conv_point")

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        return self._encode(pipe, captions, device, INSTRUCTION)

    def embed_empty(self, pipe: Any) -> Mapping[str, Embedded]:
        return self._encode(pipe, [""], pipe.text_encoder.device, None)

    @torch.no_grad()
    def _encode(
        self, pipe: Any, captions: list[str], device: torch.device, instruction: list[str] | None
    ) -> Mapping[str, Embedded]:
        tokens, mask, _, _ = pipe.encode_prompt(
            captions, do_classifier_free_guidance=False, device=device, complex_human_instruction=instruction
        )
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), mask.cpu(), tokens.shape[1])}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (300, config["caption_channels"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        embeddings, mask = padded(texts, "embeddings")
        sample = net(
            x,
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask,
            timestep=time * net.config.timestep_scale,
        ).sample
        return sample[:, : x.shape[1]]

    def pipeline_arguments(self, pipe: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        return super().pipeline_arguments(pipe, shape) | {"use_resolution_binning": False}
