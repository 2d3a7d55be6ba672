"""PixArt-Sigma (Chen et al. 2024): eps-prediction with a learned variance, text by T5 with a mask."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import PixArtSigmaPipeline, PixArtTransformer2DModel
from torch import Tensor

from dmd.data.sequences import Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import Texts, TextTransformerFamily, padded


class PixArtSigma(TextTransformerFamily):
    """PixArt-Sigma, whose network attends only to a caption's own tokens; its predicted variance is dropped."""

    network_class, pipeline_class = PixArtTransformer2DModel, PixArtSigmaPipeline
    learned_variance = True

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, mask, _, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, device=device)
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), mask.cpu(), tokens.shape[1])}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (300, config["caption_channels"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        embeddings, mask = padded(texts, "embeddings")
        sample = net(
            x,
            encoder_hidden_states=embeddings,
            encoder_attention_mask=mask,
            timestep=time,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        ).sample
        return sample[:, : x.shape[1]]

    def pipeline_arguments(self, pipe: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        return super().pipeline_arguments(pipe, shape) | {"use_resolution_binning": False}
