"""ImageReward (Xu et al. 2023): a BLIP that reads image and caption together, and a head that gives a reward.

The parts are those of transformers. The package image-reward cannot be installed beside this project: it needs timm
0.6.13 and functions that transformers no longer has.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPImageProcessor,
)
from transformers.initialization import no_init_weights

from evaluation.judges.base import judge_in_parts, pixels
from evaluation.judges.checkpoints import Weights, count_layers, fill, read_weights, take

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of rewards in its training; the paper's rewards are normalised
TOKENS = 35  # longest caption; longer ones are cut
VISION_HEADS, TEXT_HEADS = 16, 12  # of ViT-L and of BERT; the weights do not tell
LINEAR = ("0", "2", "4", "6", "7")  # layers of the head; those between are dropout, and there is no activation
# Names of the image tower in BLIP's own code, and in transformers.
VISION = {
    r"^cls_token$": "embeddings.class_embedding",
    r"^pos_embed$": "embeddings.position_embedding",
    r"^patch_embed\.proj\.": "embeddings.patch_embedding.",
    r"^norm\.": "post_layernorm.",
    r"^blocks\.": "encoder.layers.",
    r"\.norm(\d)\.": r".layer_norm\1.",
    r"\.attn\.proj\.": ".self_attn.projection.",
    r"\.attn\.": ".self_attn.",
}


class ImageReward(nn.Module):
    """The networks of a checkpoint, and the tokenizer of BERT."""

    def __init__(self, file: Path, processor: Path) -> None:
        """file: ImageReward.pt. Raises EvaluatorError if it is another network."""
        super().__init__()
        weights = read_weights(file)
        vision, text, head = (_below(weights, p) for p in ("blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."))
        text.pop("embeddings.position_ids", None)  # a constant
        with no_init_weights():
            self.vision = BlipVisionModel(describe_vision(vision))
            self.text = BlipTextModel(describe_text(text), add_pooling_layer=False)
        fill(self.vision, convert_vision(vision))
        fill(self.text, text)
        sizes = [take(head, f"{i}.weight").shape for i in LINEAR]
        self.head = nn.Sequential(*(nn.Linear(inputs, outputs) for outputs, inputs in sizes))
        fill(self.head, {f"{LINEAR.index(k[0])}{k[1:]}": v for k, v in head.items() if k[0] in LINEAR})
        side = cast(int, self.vision.config.image_size)  # of square images
        self.processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
        self.tokenizer = BertTokenizer.from_pretrained(processor, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return judge_in_parts(images, captions, self._score)

    def _score(self, images: Tensor, captions: list[str]) -> Tensor:
        seen = self.vision(pixel_values=pixels(self.processor, images, self.vision)).last_hidden_state
        tokens = self.tokenizer(captions, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
        read = self.text(
            input_ids=tokens.input_ids.to(seen.device),
            attention_mask=tokens.attention_mask.to(seen.device),
            encoder_hidden_states=seen,
        ).last_hidden_state[:, 0]
        return (self.head(read) - MEAN) / STD


def load_image_reward(weights: Path, processor: Path, device: torch.device) -> ImageReward:
    """ImageReward from its checkpoint; processor: folder of BERT's tokenizer."""
    return ImageReward(weights, processor).to(device).eval().requires_grad_(False)


def describe_vision(weights: Weights) -> BlipVisionConfig:
    """Config of the image tower, from the shapes of its weights."""
    patches = take(weights, "patch_embed.proj.weight")
    positions = take(weights, "pos_embed").shape[1] - 1
    return BlipVisionConfig(
        hidden_size=patches.shape[0],
        patch_size=patches.shape[2],
        image_size=round(positions**0.5) * patches.shape[2],
        num_hidden_layers=count_layers(weights, "blocks"),
        intermediate_size=len(take(weights, "blocks.0.mlp.fc1.weight")),
        num_attention_heads=VISION_HEADS,
        layer_norm_eps=1e-6,  # BLIP's own; transformers has 1e-5
    )


def describe_text(weights: Weights) -> BlipTextConfig:
    """Config of the text tower, from the shapes of its weights."""
    words = take(weights, "embeddings.word_embeddings.weight")
    return BlipTextConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        encoder_hidden_size=take(weights, "encoder.layer.0.crossattention.self.key.weight").shape[1],
        intermediate_size=len(take(weights, "encoder.layer.0.intermediate.dense.weight")),
        num_hidden_layers=count_layers(weights, "encoder.layer"),
        num_attention_heads=TEXT_HEADS,
        max_position_embeddings=len(take(weights, "embeddings.position_embeddings.weight")),
        is_decoder=True,  # in transformers, that it has cross-attention; it reads in both directions nevertheless
    )


def convert_vision(weights: Weights) -> Weights:
    """Weights of the image tower by their names in transformers."""
    converted: Weights = {}
    for name, value in weights.items():
        for pattern, own in VISION.items():
            name = re.sub(pattern, own, name)
        converted[name] = value
    return converted


def _below(weights: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
