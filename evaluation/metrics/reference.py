"""Reference statistics, and the plan by which every sampler is evaluated."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.errors import EvaluatorError
from dmd.storage.faults import refuse
from dmd.storage.files import write_text
from evaluation.metrics.pairwise import KERNELS, SetPairs, find_nearest, pairs_within
from evaluation.statistics.frechet import Gaussian

# Keys of plan.json and the fields that they hold.
PLAN = {
    "splits": "splits", "class_names": "class_names", "captions": "captions", "draws": "replicates",
    "neighbours": "neighbours", "picture_seed": "picture_seed",
}  # fmt: skip
COPY = 1e-4  # of the features' norm: far above the rounding of a copy's distance, far below that of another image
DERIVED = ("radii", "kernel", "nearest")
TENSORS = ("real_labels", "labels", "picture_labels", "real_sources", "sources")


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """sha256 of the names, shapes, types and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy().data)  # features of 50,000 images are hundreds of MB: no copy of them
    return digest.hexdigest()


@dataclass(frozen=True)
class Reference:
    """Features of real images, statistics derived from them, and the plan by which every sampler is evaluated."""

    splits: list[str]  # splits of the real images, in this order
    features: dict[str, Tensor]  # extractor -> [N, D] of the real images
    held_out: dict[str, Tensor]  # extractor -> [M, D] of the test split
    real_labels: Tensor  # [N] of the real images
    labels: Tensor  # [samples], the condition of each image of a replicate
    real_sources: Tensor  # [N], the training image or prompt that each real image is or was generated for
    sources: Tensor  # [samples], the training image or prompt that each label is taken from: see metrics/pairwise.py
    class_names: list[str]  # empty without classes
    captions: list[str]  # caption of each label: one for each class; without classes a label is the index of a caption
    replicates: int  # number of sets of images, each generated from different noise
    neighbours: int  # k of precision, recall, density and coverage
    picture_labels: Tensor  # labels of the pictures' cells
    picture_seed: int
    stored: dict[str, Tensor] = field(default_factory=dict)  # derived statistics that `load` has read

    @cached_property
    def row_labels(self) -> list[int]:
        """Label of each row of a picture."""
        return self.picture_labels.unique().tolist()

    @property
    def cells_per_row(self) -> int:
        """Number of a picture's cells with one label."""
        return len(self.picture_labels) // len(self.row_labels)

    def row_names(self) -> list[str]:
        """Class name or caption of each row of a picture."""
        return [(self.class_names or self.captions)[label] for label in self.row_labels]

    @cached_property
    def gaussians(self) -> dict[str, Gaussian]:
        """Gaussian of the real features, per extractor."""
        return {k: Gaussian.fit(v) for k, v in self.features.items()}

    @cached_property
    def held_out_gaussians(self) -> dict[str, Gaussian]:
        """Gaussian of the test features, per extractor."""
        return {k: Gaussian.fit(v) for k, v in self.held_out.items()}

    @cached_property
    def pairs(self) -> dict[str, SetPairs]:
        """Statistics over the pairs of the real features, per extractor; for 60,000 images they take minutes."""
        return {
            k: _stored_pairs(self.stored, k) or pairs_within(v, self.neighbours, sources=self.real_sources)
            for k, v in self.features.items()
        }

    @cached_property
    def held_out_distances(self) -> dict[str, Tensor]:
        """Distance of each test image to its nearest real image, per extractor."""
        return {
            k: self.stored[f"nearest.{k}"] if f"nearest.{k}" in self.stored else find_nearest(v, self.features[k])[0]
            for k, v in self.held_out.items()
        }

    @cached_property
    def copy_distances(self) -> dict[str, float]:
        """Distance below which an image counts as a copy of a real image, per extractor."""
        return {k: COPY * v.double().square().sum(dim=1).mean().sqrt().item() for k, v in self.features.items()}

    @cached_property
    def digest(self) -> str:
        """Hash of everything that measures depend on."""
        held_out = {f"held out {k}": v for k, v in self.held_out.items()}
        tensors = {name: getattr(self, name) for name in TENSORS}
        return hash_tensors({**self.features, **held_out, **tensors}) + json.dumps(self._plan())

    def save(self, folder: Path) -> None:
        """Write reference.safetensors and plan.json."""
        # safetensors refuses tensors that share memory.
        tensors = {name: getattr(self, name).clone() for name in TENSORS}
        for kind in ("features", "held_out"):
            tensors |= {f"{kind}.{k}": v.contiguous() for k, v in getattr(self, kind).items()}
        for k, pairs in self.pairs.items():
            tensors |= {f"radii.{k}": pairs.radii}
            tensors |= {f"kernel.{name}.{k}": means for name, means in pairs.kernels.items()}
        tensors |= {f"nearest.{k}": v for k, v in self.held_out_distances.items()}
        save_file(tensors, folder / "reference.safetensors")
        write_text(folder / "plan.json", json.dumps(self._plan(), indent=2) + "\n")

    def _plan(self) -> dict[str, Any]:
        return {key: getattr(self, name) for key, name in PLAN.items()}

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        """Read the folder that `save` wrote. Raises EvaluatorError if it is damaged, or of another version."""
        with refuse(f"{folder} holds no usable reference", "run dvc repro baseline", EvaluatorError):
            return cls._read(folder)

    @classmethod
    def _read(cls, folder: Path) -> "Reference":
        tensors = load_file(folder / "reference.safetensors")
        if missing := [name for name in TENSORS if name not in tensors]:
            raise EvaluatorError(
                f"{folder}/reference.safetensors has no {', '.join(missing)}: another version wrote it; run dvc repro "
                "baseline"
            )
        features, held_out = (
            {k.removeprefix(f"{kind}."): v for k, v in tensors.items() if k.startswith(f"{kind}.")}
            for kind in ("features", "held_out")
        )
        plan = json.loads((folder / "plan.json").read_text())
        stored = {k: v for k, v in tensors.items() if k.split(".")[0] in DERIVED}
        return cls(
            features=features,
            held_out=held_out,
            stored=stored,
            **{k: tensors[k] for k in TENSORS},
            **{name: plan[key] for key, name in PLAN.items()},
        )


def _stored_pairs(stored: dict[str, Tensor], extractor: str) -> SetPairs | None:
    """The statistics that `Reference.save` wrote; None if they lack a kernel that has been added since."""
    radii, kernels = f"radii.{extractor}", {name: f"kernel.{name}.{extractor}" for name in KERNELS}
    if not stored.keys() >= {radii, *kernels.values()}:
        return None
    return SetPairs(stored[radii], {name: stored[key] for name, key in kernels.items()})
