"""Lumina-Image 2.0 (Qin et al. 2025): one stream of text and image tokens, text by Gemma, time from noise to image."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import Lumina2Pipeline, Lumina2Transformer2DModel
from torch import Tensor

from dmd.data.sequences import Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import Texts, TextTransformerFamily, padded


class Lumina2(TextTransformerFamily):
    """Lumina-Image 2.0, whose network takes the time 1 - sigma and predicts the velocity x0 - eps.

    The pipeline puts a system prompt before each caption, but not before the empty one that guidance uses.
    """

    network_class, pipeline_class = Lumina2Transformer2DModel, Lumina2Pipeline
    block_lists, mixes_tokens = ("layers",), True
    lora_targets = ("feed_forward.linear_1", "feed_forward.linear_2", "feed_forward.linear_3")

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, mask, _, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, device=device)
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), mask.cpu(), tokens.shape[1])}

    @torch.no_grad()
    def embed_empty(self, pipe: Any) -> Mapping[str, Embedded]:
        _, _, tokens, mask = pipe.encode_prompt([""], device=pipe.text_encoder.device)
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), mask.cpu(), tokens.shape[1])}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (256, config["cap_feat_dim"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        embeddings, mask = padded(texts, "embeddings")
        return -net(x, 1 - time / 1000, embeddings, mask).sample

    def rescale(self, guided: Tensor, cond: Tensor) -> Tensor:
        """Give each row of the latents the norm that it has without guidance."""
        return guided * (cond.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def count_tokens(self, pipe: Any, shape: tuple[int, int, int]) -> int:
        return shape[0]  # the pipeline's own image_seq_len is the number of channels
