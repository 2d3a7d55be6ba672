"""Captions are embedded in batches and looked up in linear time."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from evaluation.models.clip import CAPTIONS_AT_ONCE, ClipExtractor


class Caption(str):
    """A caption that counts its comparisons."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Caption.comparisons += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        return str.__hash__(self)


class Recorder(ClipExtractor):
    """CLIP's text tower replaced by the caption's number; it records the size of every batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.model: Any = SimpleNamespace(device=torch.device("cpu"))

    def text_embeds(self, captions: list[str]) -> Tensor:
        self.sizes.append(len(captions))
        return torch.tensor([[float(c)] for c in captions])


def count_comparisons(n: int) -> int:
    Caption.comparisons = 0
    captions: list[str] = [Caption(i) for _ in range(2) for i in range(n)]
    clip = Recorder()
    assert torch.equal(clip.caption_features(captions)[:, 0], torch.arange(n).repeat(2).float())
    assert sum(clip.sizes) == n and max(clip.sizes) <= CAPTIONS_AT_ONCE <= 64  # 2.4 MiB for each caption of ViT-B/32
    return Caption.comparisons


def test_captions_are_embedded_in_batches_and_found_without_a_search() -> None:
    """Twice as many captions take twice as many comparisons, not four times as many."""
    assert count_comparisons(2000) < 3 * count_comparisons(1000) < 12_000
