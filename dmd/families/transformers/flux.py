"""FLUX.1 (Black Forest Labs 2024): packed latents with positions; the dev model takes the guidance as an input."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor

from dmd.families.tables import Embedded
from dmd.families.transformers.base import JOINT_TARGETS, Texts, TextTransformerFamily, pack, unpack


class Flux(TextTransformerFamily):
    """FLUX.1, whose network also attends to the padding of captions, so that all of their tokens are stored."""

    network_class, pipeline_class = FluxTransformer2DModel, FluxPipeline
    lora_targets = (*JOINT_TARGETS, "proj_mlp")
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    packing, packs_input = 2, True
    size_key = "_sample_size"  # diffusers ignores a private key that the network does not have
    embeds_guidance = True

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, pooled, _ = pipe.encode_prompt(captions, None, device=device)
        return {"embeddings": tokens.float().cpu(), "pooled": pooled.float().cpu()}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (512, config["joint_attention_dim"]), "pooled": (config["pooled_projection_dim"],)}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        height, width = x.shape[2:]
        embeddings = texts["embeddings"]
        positions = [torch.arange(side // 2, dtype=x.dtype, device=x.device) for side in (height, width)]
        sample = net(
            pack(x),
            timestep=time / 1000,
            guidance=x.new_full((len(x),), guidance) if net.config.guidance_embeds else None,
            pooled_projections=texts["pooled"],
            encoder_hidden_states=embeddings,
            txt_ids=x.new_zeros(embeddings.shape[1], 3),
            img_ids=torch.cartesian_prod(x.new_zeros(1), *positions),
        ).sample
        return unpack(sample, height, width)
