"""AuraFlow (fal 2024): joint attention and one stream, text by UMT5 whose padding is zero."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from torch import Tensor
from torch.nn import functional as F

from dmd.data.sequences import Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import JOINT_ATTENTION, Texts, TextTransformerFamily, padded

LONGEST = 256  # tokens of a caption: max_sequence_length of the pipeline


class AuraFlow(TextTransformerFamily):
    """The network attends to all positions of a caption, of which those without a token hold zeros."""

    network_class, pipeline_class = AuraFlowTransformer2DModel, AuraFlowPipeline
    block_lists = ("joint_transformer_blocks", "single_transformer_blocks")
    lora_targets = (
        *JOINT_ATTENTION,
        *(f"{part}.{layer}" for part in ("ff", "ff_context") for layer in ("linear_1", "linear_2", "out_projection")),
    )

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, mask, _, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False, device=device)
        of_tokens = mask.cpu().unflatten(1, (tokens.shape[1], -1))[:, :, 0]  # the mask has each value of a token
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), of_tokens, LONGEST)}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (LONGEST, config["joint_attention_dim"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        embeddings, _ = padded(texts, "embeddings")
        embeddings = F.pad(embeddings, (0, 0, 0, LONGEST - embeddings.shape[1]))
        return net(x, encoder_hidden_states=embeddings, timestep=time / 1000).sample
