"""Reference statistics and the plan that every sampler is judged by."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.storage.files import write_text
from evaluation.metrics.pairwise import Within, nearest, within
from evaluation.statistics.frechet import Gaussian

EVALUATOR, CLASSIFIER = "evaluator", "classifier"  # the extractors that every run has
PLAN = ("splits", "class_names", "captions", "draws", "neighbours", "picture_seed")
DERIVED = ("radii", "kernel", "nearest")
TENSORS = ("real_labels", "labels", "picture_labels")


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 of named tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Reference:
    """Real features, what is derived from them, and the plan that every sampler is judged by."""

    splits: list[str]  # whose images are the real ones, in this order
    features: dict[str, Tensor]  # extractor -> [N, D] of the real images
    held_out: dict[str, Tensor]  # extractor -> [M, D] of the test split
    real_labels: Tensor  # [N] of the real images
    labels: Tensor  # [samples], the condition of each image of a draw
    class_names: list[str]  # empty where there are no classes
    captions: list[str]  # one per label: a class's, or the label is a caption
    draws: int
    neighbours: int
    picture_labels: Tensor  # labels of the pictures' cells
    picture_seed: int
    known: dict[str, Tensor] = field(default_factory=dict)  # derived from the features, as it was stored

    @cached_property
    def shown(self) -> list[int]:
        """The labels of the pictures, one for each row of cells."""
        return self.picture_labels.unique().tolist()

    def names(self) -> list[str]:
        """Of the rows: their classes, or their captions."""
        return [(self.class_names or self.captions)[label] for label in self.shown]

    @cached_property
    def gaussians(self) -> dict[str, Gaussian]:
        return {k: Gaussian.fit(v) for k, v in self.features.items()}

    @cached_property
    def held_out_gaussians(self) -> dict[str, Gaussian]:
        return {k: Gaussian.fit(v) for k, v in self.held_out.items()}

    @cached_property
    def within(self) -> dict[str, Within]:
        """Of the real images' pairs; of 60,000 images they are the work of minutes, and stored."""
        known = self.known
        return {
            k: Within(known[f"radii.{k}"], known[f"kernel.{k}"])
            if f"radii.{k}" in known
            else within(v, self.neighbours)
            for k, v in self.features.items()
        }

    @cached_property
    def held_out_distances(self) -> dict[str, Tensor]:
        """Distances of held-out images to their nearest real one; stored, too."""
        return {
            k: self.known[f"nearest.{k}"] if f"nearest.{k}" in self.known else nearest(v, self.features[k])[0]
            for k, v in self.held_out.items()
        }

    @cached_property
    def digest(self) -> str:
        """Of all that a measure may depend on."""
        plan = json.dumps({k: getattr(self, k) for k in PLAN})
        tensors = {name: getattr(self, name) for name in TENSORS}
        return digest({**self.features, **{f"held out {k}": v for k, v in self.held_out.items()}, **tensors}) + plan

    def save(self, folder: Path) -> None:
        tensors = {name: getattr(self, name).clone() for name in TENSORS}  # they may share memory
        for kind in ("features", "held_out"):
            tensors |= {f"{kind}.{k}": v.contiguous() for k, v in getattr(self, kind).items()}
        for k, pairs in self.within.items():
            tensors |= {f"radii.{k}": pairs.radii, f"kernel.{k}": pairs.kernel}
        tensors |= {f"nearest.{k}": v for k, v in self.held_out_distances.items()}
        save_file(tensors, folder / "reference.safetensors")
        plan = {k: getattr(self, k) for k in PLAN}
        write_text(folder / "plan.json", json.dumps(plan, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        tensors = load_file(folder / "reference.safetensors")
        features, held_out = (
            {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}
            for kind in ("features", "held_out")
        )
        plan = json.loads((folder / "plan.json").read_text())
        known = {k: v for k, v in tensors.items() if k.split(".")[0] in DERIVED}
        return cls(features=features, held_out=held_out, known=known, **{k: tensors[k] for k in TENSORS}, **plan)
