"""A classifier that has learned no classes is no extractor."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dmd.config import Params
from dmd.data.splits import Split
from dmd.errors import EvaluatorError
from dmd.storage.checkpoint import Scratch
from evaluation.evaluator.evaluator import Evaluator
from evaluation.features.extractors import Extractors
from evaluation.judging import judge
from evaluation.models.build import build_evaluator
from tests.helpers.evaluators import sampler, toy_evaluator
from tests.helpers.networks import CPU
from tests.helpers.params import with_values


def write_evaluator(params: Params, folder: Path, scratch: Scratch, classes: tuple[str, ...]) -> Path:
    """The folder of the evaluator stage, for six images with captions of their own."""
    captions, images = [str(i) for i in range(6)], torch.arange(6).byte()[:, None, None, None].expand(6, 1, 8, 8)
    split = Split(images, torch.arange(6) % max(len(classes), 1), captions, classes, tuple(captions))  # type: ignore[arg-type]
    cfg = with_values(params, evaluator={"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1}).evaluator
    folder.mkdir()
    build_evaluator(cfg, dict.fromkeys(("train", "validation", "test"), split), folder, CPU, scratch)
    return folder


@pytest.mark.parametrize(
    ("classes", "names"),
    [((), {"evaluator"}), (("a",), {"evaluator"}), (("a", "b"), {"evaluator", "classifier"})],
)
def test_the_classifier_is_an_extractor_if_it_has_learned_classes(
    params: Params, tmp_path: Path, scratch: Scratch, classes: tuple[str, ...], names: set[str]
) -> None:
    """With random weights its ratio was the only one without a mark, and so the headline."""
    folder = write_evaluator(params, tmp_path / "evaluator", scratch, classes)
    extractors = Extractors.load(folder, params.extractors, CPU)
    assert extractors.networks.keys() == extractors.sha256.keys() == extractors.resize.keys() == names


def test_a_comparison_in_memory_names_the_extractors_of_the_folder(
    params: Params, tmp_path: Path, scratch: Scratch
) -> None:
    folder = write_evaluator(params, tmp_path / "evaluator", scratch, ())
    images = torch.zeros(6, 1, 8, 8, dtype=torch.uint8)
    with pytest.raises(EvaluatorError, match="has no extractor classifier; use evaluator"):
        judge(images, images, folder, names=["classifier"])


def test_images_of_one_class_are_evaluated_without_the_classifier() -> None:
    toy = toy_evaluator()
    extractors = replace(toy.extractors, networks={"evaluator": toy.extractors.networks["evaluator"]})
    features, held_out = ({"evaluator": x["evaluator"]} for x in (toy.reference.features, toy.reference.held_out))
    reference = replace(toy.reference, features=features, held_out=held_out)
    measures, _ = Evaluator(extractors, reference).evaluate(sampler(), 5, 100)
    assert measures.fd.keys() == {"evaluator"} and measures.classes == {} and measures.accuracy is None
