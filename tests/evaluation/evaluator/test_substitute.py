"""With prompts alone, the teacher's images replace the real ones; no sampler is measured on the same images."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import Params
from dmd.data.splits import Split
from evaluation.evaluator.evaluator import replicate_seed
from evaluation.evaluator.reference import EvaluationData, build_reference
from tests.helpers.evaluators import sampler
from tests.helpers.params import with_values

NAMES = tuple(str(i) for i in range(10))


class NoImages:
    """The images of prompts alone."""

    shape = (0, 1, 8, 8)

    def __len__(self) -> int:
        return 0


def prompts_alone() -> EvaluationData:
    images: Any = NoImages()
    split = Split(images, torch.arange(10), list(NAMES), (), NAMES)
    return EvaluationData(split, split, split, "a", "b")


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float()


@pytest.mark.parametrize("seed", [0, 1, 1000])
def test_the_reference_holds_no_image_by_which_a_sampler_is_measured(params: Params, seed: int) -> None:
    """For seed 0, seed and seed + 1 are the seeds of the first two replicates."""
    cfg = with_values(params, baseline={"seed": seed, "samples": 20, "batch_size": 20}).baseline
    reference = build_reference(cfg, prompts_alone(), {"pixels": pixels}, sampler())
    measured = [
        pixels(torch.cat(list(sampler().batches(reference.labels, 20, replicate_seed(s, r)))))
        for s in (0, 1, 1000, 2000)
        for r in range(4)
    ]
    sets = [reference.features["pixels"], reference.held_out["pixels"], *measured]
    images = {tuple(image) for features in sets for image in features.tolist()}
    assert len(images) == sum(len(features) for features in sets)
