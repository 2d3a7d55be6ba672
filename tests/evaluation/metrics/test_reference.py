"""A reference can be saved and loaded, with its derived statistics."""

from pathlib import Path

import pytest
import torch

from dmd.errors import EvaluatorError
from evaluation.metrics.pairwise import KERNELS, pairs_within
from evaluation.metrics.reference import Reference
from tests.helpers.evaluators import toy_evaluator


def test_a_reference_is_the_same_after_saving_and_loading(tmp_path: Path) -> None:
    ref = toy_evaluator().reference
    ref.save(tmp_path)
    loaded = Reference.load(tmp_path)
    assert torch.equal(loaded.features["classifier"], ref.features["classifier"])
    assert torch.equal(loaded.labels, ref.labels)
    assert (loaded.captions, loaded.replicates, loaded.neighbours, loaded.picture_seed) == (ref.captions, 3, 3, 1)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("reference.safetensors", b"\x10\0\0\0\0\0\0\0abc"), ("plan.json", b"{"), ("plan.json", b"{}"),
        ("plan.json", b"[]"), ("plan.json", b"\xff"),
    ],
)  # fmt: skip
def test_a_damaged_reference_is_an_error_of_one_line(tmp_path: Path, file: str, content: bytes) -> None:
    toy_evaluator().reference.save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(EvaluatorError, match=r"holds no usable reference: .*; run dvc repro baseline$"):
        Reference.load(tmp_path)


def test_derived_statistics_are_stored_with_the_reference(tmp_path: Path) -> None:
    ref = toy_evaluator().reference
    ref.save(tmp_path)
    loaded = Reference.load(tmp_path)
    assert loaded.stored and loaded.digest == ref.digest
    for k, x in ref.features.items():
        pairs = pairs_within(x, ref.neighbours)
        assert torch.equal(loaded.pairs[k].radii, pairs.radii)
        assert torch.equal(loaded.pairs[k].kernels["cubic"], pairs.kernels["cubic"])
        assert torch.equal(loaded.held_out_distances[k], ref.held_out_distances[k])


def test_a_reference_from_before_a_kernel_was_added_computes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = toy_evaluator().reference
    ref.save(tmp_path)
    monkeypatch.setitem(KERNELS, "linear", lambda products, squares, dimensions: products)
    for k, x in ref.features.items():
        kernels = Reference.load(tmp_path).pairs[k].kernels
        assert torch.equal(kernels["linear"], pairs_within(x, ref.neighbours).kernels["linear"])
        assert torch.equal(kernels["cubic"], ref.pairs[k].kernels["cubic"])
