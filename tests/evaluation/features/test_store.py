"""The store keeps features and images, and computes only what is missing."""

from pathlib import Path

import torch
from torch import Tensor

from evaluation.features.store import FeatureStore


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
    for file in tmp_path.iterdir():
        file.write_bytes(b"cut short")
    store.features({"source": "s"}, {"a": extractor("a")}, batches)
    assert len(generated) == 3
    files = len(list(tmp_path.iterdir()))
    for _ in range(2):  # the images of a split are on disk, so only their features are stored
        store.features({"split": "train"}, {"a": extractor("a")}, batches, keep_images=False)
    assert (len(generated), len(list(tmp_path.iterdir()))) == (4, files + 1)
