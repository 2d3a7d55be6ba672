"""Z-Image (Tongyi 2025): one stream of image and text tokens, text by Qwen3, time and velocity from image to noise."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor

from dmd.data.sequences import Padded, Sequences
from dmd.families.tables import Embedded
from dmd.families.transformers.base import Texts, TextTransformerFamily

LONGEST = 512  # tokens of a caption: max_sequence_length of the pipeline


class ZImage(TextTransformerFamily):
    """Z-Image, whose network takes the time 1 - sigma and predicts the velocity x0 - eps."""

    network_class, pipeline_class = ZImageTransformer2DModel, ZImagePipeline
    block_lists, mixes_tokens = ("layers",), True
    lora_targets = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")
    size_key = "_sample_size"  # diffusers ignores a private key that the network does not have

    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        rows, _ = pipe.encode_prompt(captions, device, do_classifier_free_guidance=False)
        lengths = torch.tensor([len(row) for row in rows])
        return {"embeddings": Sequences(torch.cat(rows).float().cpu(), lengths, LONGEST)}

    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        return {"embeddings": (LONGEST, config["cap_feat_dim"])}

    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        rows = texts["embeddings"]
        captions = rows.unpadded() if isinstance(rows, Padded) else list(rows)
        velocities = net(list(x[:, :, None].unbind(0)), (1000 - time) / 1000, captions).sample
        return -torch.stack(velocities).squeeze(2)

    def patch_size(self, pipe: Any) -> int:
        return 2

    def pipeline_arguments(self, pipe: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        return super().pipeline_arguments(pipe, shape) | {"guidance_scale": 0.0}
