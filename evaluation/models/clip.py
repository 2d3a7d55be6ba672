"""CLIP as a feature extractor: any transformers CLIP folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from dmd.errors import EvaluatorError
from dmd.storage.weights import load_network

CAPTIONS_AT_ONCE = 64  # captions in a batch of the text tower; one of ViT-B/32 takes 2.4 MiB of activations


class ClipExtractor:
    """A transformers CLIPModel with its own resize, mean and standard deviation; grey images become RGB."""

    def __init__(self, model: CLIPModel, tokenizer: CLIPTokenizer, processor: CLIPImageProcessor) -> None:
        self.model, self.tokenizer = model, tokenizer
        vision: Any = model.vision_model.config
        self.size: int = vision.image_size
        self.mean = torch.tensor(processor.image_mean).reshape(1, 3, 1, 1)
        self.std = torch.tensor(processor.image_std).reshape(1, 3, 1, 1)

    @property
    def device(self) -> torch.device:
        return self.model.device

    def image_embeds(self, images: Tensor) -> Tensor:
        """Unnormalised projections [B, D] of uint8 images [B, C, H, W]."""
        rgb = images.expand(-1, 3, -1, -1).float() / 255
        if rgb.shape[-2:] != (self.size, self.size):
            rgb = F.interpolate(rgb, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        pooled = self.model.vision_model(pixel_values=((rgb - self.mean) / self.std).to(self.device)).pooler_output
        return self.model.visual_projection(pooled)

    def text_embeds(self, captions: list[str]) -> Tensor:
        """Unnormalised projections [B, D] of captions."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.device)
        return self.model.text_projection(self.model.text_model(**tokens).pooler_output)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.image_embeds(images).cpu()

    @torch.inference_mode()
    def caption_features(self, captions: list[str]) -> Tensor:
        """Projections [N, D] of captions for the CLIP score, in batches; equal captions are embedded once."""
        distinct = sorted(set(captions))
        parts = (distinct[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(distinct), CAPTIONS_AT_ONCE))
        embeds = torch.cat([self.text_embeds(part).cpu() for part in parts])
        position = {caption: i for i, caption in enumerate(distinct)}
        return embeds[[position[c] for c in captions]]


@contextlib.contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off transformers' progress bars for loading and saving; those of downloads stay."""
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def load_clip(folder: Path, device: torch.device) -> ClipExtractor:
    """Load a transformers CLIP folder.

    Raises EvaluatorError if it is missing, damaged or another model, or if a weight is missing or no number.
    """
    model: CLIPModel = load_network(folder, CLIPModel, EvaluatorError)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
        # A tokenizer without a length of its own would give the model more tokens than it has positions for.
        positions = model.text_model.config.max_position_embeddings  # type: ignore[union-attr]
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    except Exception as e:  # transformers, tokenizers and safetensors each raise exceptions of their own
        raise EvaluatorError(f"{folder} could not be loaded as a CLIP model: {' '.join(str(e).split())[:300]}") from e
    model.to(device).eval()  # type: ignore[arg-type]
    return ClipExtractor(model.requires_grad_(False), tokenizer, processor)
