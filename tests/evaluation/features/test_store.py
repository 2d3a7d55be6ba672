"""The store keeps features and images, and computes only what is missing."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluation.features import store as store_module
from evaluation.features.store import FeatureStore
from evaluation.metrics.schema import Scores
from tests.helpers.faults.damage import DAMAGES, do_damage


def test_a_new_extractor_computes_only_its_own_features(tmp_path: Path) -> None:
    """A new extractor reads the stored images; only a new source or a damaged store generates images."""
    generated, extracted = [], []

    def batches():
        generated.append(1)
        yield torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(4, 1, 1, 1)

    def extractor(name: str):
        def run(images: Tensor) -> Tensor:
            extracted.append(name)
            return images.flatten(1).float()

        return run

    store = FeatureStore(tmp_path, {"a": "1", "b": "1"})
    first = store.features({"source": "s"}, {"a": extractor("a")}, batches)
    again = store.features({"source": "s"}, {"a": extractor("a"), "b": extractor("b")}, batches)
    assert torch.equal(first["a"], again["a"]) and torch.equal(again["a"], again["b"])
    assert (len(generated), extracted) == (1, ["a", "b"])
    store.features({"source": "t"}, {"a": extractor("a")}, batches)
    FeatureStore(tmp_path, {"a": "2"}).features({"source": "s"}, {"a": extractor("a")}, batches)
    assert (len(generated), extracted) == (2, ["a", "b", "a", "a"])
    files = len(list(tmp_path.glob("*.safetensors")))
    for _ in range(2):  # the images of a split are on disk, so only their features are stored
        store.features({"split": "train"}, {"a": extractor("a")}, batches, keep_images=False)
    assert (len(generated), len(list(tmp_path.glob("*.safetensors")))) == (3, files + 1)


@pytest.mark.parametrize("keep_time", [True, False], ids=["same-time", "new-time"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_named_and_computed_again(
    damage: str, keep_time: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Features of two sources, and the scores of two."""
    generated: list[int] = []

    def read(source: str, value: int) -> tuple[float, list[Scores]]:
        def generate():
            generated.append(value)
            yield torch.full((4, 1, 8, 8), value, dtype=torch.uint8)

        def compute() -> list[Scores]:
            generated.append(value)
            return [Scores.model_validate({"fd": {"a": float(value)}, "nearest": {}, "classes": {}})]

        features = store.features({"source": source}, {"a": lambda x: x.flatten(1).float()}, generate, False)
        return features["a"].mean().item(), store.scores({"source": source}, compute)

    store = FeatureStore(tmp_path, {"a": "1"})
    first, second = read("s", 1), read("t", 2)
    for pattern in ("*.safetensors", "*.json"):
        kept = sorted(tmp_path.glob(pattern), key=lambda file: file.stat().st_mtime_ns)
        do_damage(damage, kept, keep_time)
        assert (read("s", 1), read("t", 2)) == (first, second)
        named = capsys.readouterr().err
        assert [f"note: {file} is damaged" in named for file in kept] == [True, damage == "swapped"]
    assert generated == [1, 1, 2, 2] + ([1, 2, 1, 2] if damage == "swapped" else [1, 1])


def read_entry(store: FeatureStore, kind: str) -> float:
    """Features of a source, or its scores: read, or computed and written."""
    if kind == "features":
        images = torch.full((4, 1, 8, 8), 3, dtype=torch.uint8)
        return store.features({}, {"a": lambda x: x.flatten(1).float()}, lambda: [images], False)["a"].mean().item()
    scores = [Scores.model_validate({"fd": {"a": 3.0}, "nearest": {}, "classes": {}})]
    return store.scores({}, lambda: scores)[0].values("fd")["a"]


@pytest.mark.parametrize("moment", [1, 2], ids=["entry", "seal"])
@pytest.mark.parametrize("kind", ["features", "scores"])
def test_two_runs_may_write_one_entry_at_the_same_time(
    kind: str, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other run writes the whole entry just before the file, or the seal, of this one gets its name."""
    store, replace, calls = FeatureStore(tmp_path, {"a": "1"}), Path.replace, [0]

    def interrupted(tmp: Path, target: Path) -> Any:
        calls[0] += 1
        if calls[0] == moment:
            with monkeypatch.context() as other:
                other.setattr(os, "getpid", lambda: -1)
                assert read_entry(store, kind) == 3
        return replace(tmp, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    assert read_entry(store, kind) == read_entry(store, kind) == 3 and calls[0] == 4
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["features", "scores"])
def test_an_entry_that_another_run_removes_is_computed_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be removed before its seal is written, or between the check of the seal and the reading."""
    store, write_seal, is_usable = FeatureStore(tmp_path, {"a": "1"}), store_module.write_seal, store_module.is_usable

    def removed_before(call: Any) -> Any:
        return lambda path: (path.unlink(missing_ok=True), call(path))[1]

    def removed_after(path: Path) -> bool:
        result = is_usable(path)
        path.unlink(missing_ok=True)
        return result

    with monkeypatch.context() as other:
        other.setattr(store_module, "write_seal", removed_before(write_seal))
        assert read_entry(store, kind) == 3
    assert read_entry(store, kind) == 3
    monkeypatch.setattr(store_module, "is_usable", removed_after)
    assert read_entry(store, kind) == 3
