"""The contract of a judge, and how its inputs are prepared."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from evaluation.models.extractors import Extractor

PART = 16  # images that pass through a judge at once; a judge of 224 pixels takes about 50 MiB for each


class Judge(Protocol):
    """uint8 images [B, C, H, W] and the caption of each -> judgements [B, K], float32 on the CPU.

    K is 1, the score; a judge that asks questions has 2, the number of right answers and the number of questions.
    """

    def __call__(self, images: Tensor, captions: Sequence[str]) -> Tensor: ...


def with_captions(judge: Judge, captions: Iterable[Sequence[str]]) -> Extractor:
    """The judge as an extractor for one pass over batches of images, whose captions are given batch by batch."""
    parts = iter(captions)
    return lambda images: judge(images, next(parts))


def judge_in_parts(images: Tensor, captions: Sequence[str], judge: Callable[[Tensor, list[str]], Tensor]) -> Tensor:
    """Apply a function of images [B, C, H, W] and captions to parts of a batch; return its rows on the CPU."""
    parts = images.split(PART)
    texts = split_captions(captions, PART)
    return torch.cat([judge(part, list(text)).float().cpu() for part, text in zip(parts, texts, strict=True)])


def split_captions(captions: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Yield the captions of batches of `size` images."""
    return (captions[i : i + size] for i in range(0, len(captions), size))


def pixels(processor: Any, images: Tensor, net: nn.Module) -> Tensor:
    """Input of a network from uint8 images, by the image processor of its authors; grey images become RGB."""
    rgb = list(images.expand(-1, 3, -1, -1))
    values = processor(images=rgb, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
    return values.to(next(net.parameters()).device)
