"""Reference statistics and the plan that every sampler is judged by."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.files import write_text
from evaluation.distances import Gaussian, neighbour_radii


@dataclass(frozen=True)
class Reference:
    """Real features, what is derived from them, and the plan that every sampler is judged by."""

    features: dict[str, Tensor]  # extractor -> [N, D] of the train split
    labels: Tensor  # [samples], the condition of each image of a draw
    captions: list[str]  # one per class; empty where there are no classes
    draws: int
    neighbours: int
    picture_labels: Tensor  # labels of the pictures' cells
    picture_seed: int

    @cached_property
    def gaussians(self) -> dict[str, Gaussian]:
        return {k: Gaussian.fit(v) for k, v in self.features.items()}

    @cached_property
    def radii(self) -> dict[str, Tensor]:
        return {k: neighbour_radii(v, self.neighbours) for k, v in self.features.items()}

    def save(self, folder: Path) -> None:
        tensors = {f"features.{k}": v.contiguous() for k, v in self.features.items()}
        save_file(
            tensors | {"labels": self.labels, "picture_labels": self.picture_labels}, folder / "reference.safetensors"
        )
        plan = {k: getattr(self, k) for k in ("captions", "draws", "neighbours", "picture_seed")}
        write_text(folder / "plan.json", json.dumps(plan, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Reference":
        tensors = load_file(folder / "reference.safetensors")
        features = {k.removeprefix("features."): v for k, v in tensors.items() if k.startswith("features.")}
        plan = json.loads((folder / "plan.json").read_text())
        return cls(features=features, labels=tensors["labels"], picture_labels=tensors["picture_labels"], **plan)
