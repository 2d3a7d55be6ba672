"""FLUX.2 klein (Black Forest Labs 2026): latents in blocks of 2x2, joint attention and one stream, text by Qwen3."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from dmd.families.tables import Embedded
from dmd.families.transformers.base import JOINT_ATTENTION, Texts, TextTransformerFamily

LAYERS = 48  # of single blocks in the largest network, FLUX.2 dev
STEPS = 50  # num_inference_steps of the pipeline, on which its mu depends


class Flux2Klein(TextTransformerFamily):
    """The network also attends to padding of captions, so that all of their tokens are stored."""

    network_class, pipeline_class = Flux2Transformer2DModel, Flux2KleinPipeline
    lora_targets = (
        *(*JOINT_ATTENTION, "ff.linear_in", "ff.linear_out"),
        *("ff_context.linear_in", "ff_context.linear_out", "to_qkv_mlp_proj"),
        *(f"single_transformer_blocks.{k}.attn.to_out" for k in range(LAYERS)),  # elsewhere to_out is a list of layers
    )
    block_lists = ("transformer_blocks", "single_transformer_blocks")
    packs_steps = True
    size_key = "_sample_size"  # diffusers ignores a private key that the network does not have

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        tokens, _ = pipe.encode_prompt(captions, device=device)
        return {"embeddings": tokens.float().cpu()}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (512, config["joint_attention_dim"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        sides, embeddings = x.shape[2:], texts["embeddings"]
        one, *positions = (torch.arange(n, device=x.device) for n in (1, *sides, embeddings.shape[1]))
        sample = net(
            x.flatten(2).transpose(1, 2),
            timestep=time / 1000,
            encoder_hidden_states=embeddings,
            txt_ids=torch.cartesian_prod(one, one, one, positions[2]),
            img_ids=torch.cartesian_prod(one, *positions[:2], one),
        ).sample
        return sample.transpose(1, 2).unflatten(2, sides)

    def flow_mu(self, pipe: Any, shape: tuple[int, int, int]) -> float:
        """Return the mu that the pipeline has with its default number of steps."""
        return compute_empirical_mu(shape[1] * shape[2], STEPS)

    def pipeline_arguments(self, pipe: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        height, width = (2 * side * pipe.vae_scale_factor for side in shape[1:])  # tokens are blocks of 2x2 latents
        return {"height": height, "width": width, "guidance_scale": 1.0}
