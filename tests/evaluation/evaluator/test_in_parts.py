"""Pictures are generated batch by batch: the images do not depend on the batch size, and memory is bounded."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from dmd.samplers.sampler import Sampler
from evaluation.report.sheet import draw_nearest
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.networks import CPU


class Recorder:
    """A toy sampler that records the size of every batch."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        toy = sampler()

        def make(z: Tensor, cond: Tensor | None) -> Tensor:
            self.sizes.append(len(z))
            return toy.sample(z, cond)

        self.recording = Sampler("toy", 1, (1, 8, 8), True, CPU, make)

    def sampler(self) -> Sampler:
        return self.recording


def test_pictures_are_generated_in_batches_with_the_same_noise() -> None:
    """At 512x512, the cells of a hundred conditions in one call would need hundreds of gigabytes."""
    evaluator, recorder = toy_evaluator(), Recorder()
    real: Any = SimpleNamespace(images=torch.zeros(300, 1, 8, 8, dtype=torch.uint8))
    assert torch.equal(evaluator.generate_pictures(recorder.recording, 7), evaluator.generate_pictures(sampler(), 20))
    sheets = [draw_nearest(evaluator, real, s, size) for s, size in ((recorder.recording, 64), (sampler(), 500))]
    assert sheets[0] == sheets[1]
    assert recorder.sizes == [7, 7, 6, *[64] * 7, 52]
