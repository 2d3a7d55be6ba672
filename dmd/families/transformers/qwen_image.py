"""Qwen-Image (Wu et al. 2025): packed latents of a video VAE, joint attention, text by Qwen2.5-VL."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor

from dmd.data.sequences import Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import JOINT_TARGETS, Texts, TextTransformerFamily, pack, padded, unpack

LONGEST = 512  # tokens of a caption: max_sequence_length of the pipeline


class QwenImage(TextTransformerFamily):
    """Qwen-Image, whose pipeline drops the tokens of its template, and gives guided tokens their unguided norm."""

    network_class, pipeline_class = QwenImageTransformer2DModel, QwenImagePipeline
    lora_targets = (
        *(*JOINT_TARGETS, "img_mlp.net.0.proj", "img_mlp.net.2"),
        *("txt_mlp.net.0.proj", "txt_mlp.net.2"),
    )
    packing, packs_input = 2, True
    size_key = "_sample_size"  # diffusers ignores a private key that the network does not have

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, mask = pipe.encode_prompt(captions, device=device, max_sequence_length=LONGEST)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool) if mask is None else mask.cpu()
        return {"embeddings": Sequences.unpad(tokens.float().cpu(), mask, LONGEST)}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (LONGEST, config["joint_attention_dim"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        height, width = x.shape[2:]
        embeddings, mask = padded(texts, "embeddings")
        sample = net(
            pack(x),
            timestep=time / 1000,
            encoder_hidden_states=embeddings,
            encoder_hidden_states_mask=mask,
            img_shapes=[[(1, height // 2, width // 2)]] * len(x),
        ).sample
        return unpack(sample, height, width)

    def rescale(self, guided: Tensor, cond: Tensor) -> Tensor:
        """Give each token the norm that it has without guidance."""
        norms = [pack(x).norm(dim=-1, keepdim=True) for x in (cond, guided)]
        return unpack(pack(guided) * (norms[0] / norms[1]), *guided.shape[2:])

    def output_channels(self, config: Any) -> int:
        return config["out_channels"] * self.packing**2

    def pipeline_arguments(self, pipe: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        arguments = super().pipeline_arguments(pipe, shape)
        del arguments["guidance_scale"]
        return arguments | {"true_cfg_scale": 1.0}
