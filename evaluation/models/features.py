"""What images are judged by: networks that turn uint8 images [B, C, H, W] into features [B, D]."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from dmd.errors import EvaluatorError
from evaluation.models.classifier import load_classifier


class Extractor(Protocol):
    """uint8 images [B, C, H, W] -> features [B, D], float32 on the CPU."""

    def __call__(self, images: Tensor) -> Tensor: ...


class ClipJudge:
    """Any transformers CLIPModel with its own resize, mean and std; grey images become RGB."""

    def __init__(self, model: CLIPModel, tokenizer: Any, processor: CLIPImageProcessor) -> None:
        self.model, self.tokenizer = model, tokenizer
        vision: Any = model.config.vision_config
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
        """[B, D] for the CLIP score; each different caption is embedded once."""
        different = sorted(set(captions))
        embeds = self.text_embeds(different).cpu()
        return embeds[[different.index(c) for c in captions]]


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """Without transformers' bars, of a tenth of a second each; downloads keep theirs."""
    disable_progress_bar()
    try:
        yield
    finally:
        enable_progress_bar()


def load_clip(folder: Path, device: torch.device) -> ClipJudge:
    """A transformers CLIP folder. Raises EvaluatorError where it is missing, damaged or something else."""
    try:
        with no_bars():
            model = CLIPModel.from_pretrained(folder, local_files_only=True).to(device).eval()  # type: ignore[arg-type]
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    except Exception as e:  # transformers, tokenizers and safetensors each raise kinds of their own
        raise EvaluatorError(f"{folder} could not be loaded as a CLIP model: {' '.join(str(e).split())[:300]}") from e
    return ClipJudge(model.requires_grad_(False), tokenizer, processor)


def load_extractors(folder: Path, device: torch.device) -> tuple[ClipJudge, dict[str, Extractor]]:
    """The judge of text and image, and every extractor by name, from the evaluator stage's folder."""
    judge = load_clip(folder / "clip", device)
    return judge, {"evaluator": judge, "classifier": load_classifier(folder / "classifier", device)}


def extract(extractors: dict[str, Extractor], batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Features [N, D] per extractor of images that come in batches; the images themselves are let go."""
    parts: dict[str, list[Tensor]] = {name: [] for name in extractors}
    for images in batches:
        for name, extractor in extractors.items():
            parts[name].append(extractor(images))
    return {name: torch.cat(chunks) for name, chunks in parts.items()}
