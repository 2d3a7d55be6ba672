"""PickScore and HPS v2: CLIP models trained on people's choices; the score is a cosine of image and caption."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dmd.errors import EvaluatorError
from dmd.storage.weights import load_network
from evaluation.judges.base import judge_in_parts, pixels
from evaluation.judges.open_clip import read_open_clip


class ClipJudge:
    """A CLIP model whose score is `scale` x cosine."""

    def __init__(self, model: CLIPModel, processor: Path, scale: float, device: torch.device) -> None:
        """processor: folder of tokenizer and image processor."""
        self.model: Any = model.to(device).eval().requires_grad_(False)  # type: ignore[arg-type]
        self.scale = scale
        self.processor = CLIPImageProcessor.from_pretrained(processor, local_files_only=True)
        self.tokenizer = CLIPTokenizer.from_pretrained(processor, local_files_only=True)
        positions: int = self.model.text_model.config.max_position_embeddings
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, positions)

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        return judge_in_parts(images, captions, self._score)

    def _score(self, images: Tensor, captions: list[str]) -> Tensor:
        pooled = self.model.vision_model(pixel_values=pixels(self.processor, images, self.model)).pooler_output
        distinct = list(dict.fromkeys(captions))
        tokens = self.tokenizer(distinct, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        texts = self.model.text_projection(self.model.text_model(**tokens).pooler_output)
        texts = texts[[distinct.index(caption) for caption in captions]]
        return self.scale * F.cosine_similarity(self.model.visual_projection(pooled), texts)[:, None]


def load_pick_score(weights: Path, processor: Path, device: torch.device) -> ClipJudge:
    """PickScore (Kirstain et al. 2023): the cosine times the model's own scale, about 20; a transformers folder."""
    model: CLIPModel = load_network(weights, CLIPModel, EvaluatorError)
    return ClipJudge(model, processor, model.logit_scale.exp().item(), device)


def load_hps(weights: Path, processor: Path, device: torch.device) -> ClipJudge:
    """HPS v2 (Wu et al. 2023): 100 x cosine, about 28; a checkpoint of open_clip's ViT-H-14.

    Its authors fit the longer side of an image and pad the other one. Images of this project are square, which need no
    padding, so CLIP's own resize gives the same.
    """
    return ClipJudge(read_open_clip(weights), processor, 100.0, device)
