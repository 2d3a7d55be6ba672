"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): text by two CLIP encoders and T5, joint attention, flow matching."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from dmd.families.tables import Embedded
from dmd.families.transformers.base import JOINT_TARGETS, Texts, TextTransformerFamily


class StableDiffusion3(TextTransformerFamily):
    """Stable Diffusion 3, whose network also attends to the padding of captions, so that all tokens are stored."""

    network_class, pipeline_class = SD3Transformer2DModel, StableDiffusion3Pipeline
    lora_targets = JOINT_TARGETS

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, _, pooled, _ = pipe.encode_prompt(
            captions, None, None, device=device, do_classifier_free_guidance=False
        )
        return {"embeddings": tokens.float().cpu(), "pooled": pooled.float().cpu()}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (77 + 256, config["joint_attention_dim"]), "pooled": (config["pooled_projection_dim"],)}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        return net(x, texts["embeddings"], texts["pooled"], timestep=time).sample
