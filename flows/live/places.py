"""The places that show a run beside MLflow, each behind a tracker of accelerate."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from flows.live.feed import Row, metric_values

TENSORBOARD = "tensorboard"  # folder in runs/ for the event files of all runs


class About(NamedTuple):
    """The run that a place shows."""

    project: str
    name: str
    run_id: str  # unique, so that another process can continue the run
    params: Mapping[str, str]  # empty for a run that is continued


class Place(Protocol):
    """A place that shows a run. Every method may raise any error."""

    def log(self, group: str, row: Row) -> None: ...
    def show(self, name: str, file: Path, step: int) -> None: ...
    def conclude(self, figures: Mapping[str, float]) -> None: ...
    def close(self, is_failed: bool) -> None: ...


class TensorBoard:
    """Event files in a folder of the run; each curve has its own steps."""

    def __init__(self, runs: Path, about: About) -> None:
        from accelerate.tracking import TensorBoardTracker

        self.tracker = TensorBoardTracker(about.run_id, runs / TENSORBOARD)
        self.tracker.start()
        if about.params:
            self.tracker.store_init_configuration(dict(about.params))

    def log(self, group: str, row: Row) -> None:
        """Log the numbers of a step."""
        self.tracker.log(dict(metric_values(group, row)), step=row.step, walltime=row.time / 1000)

    def show(self, name: str, file: Path, step: int) -> None:
        """Log a picture."""
        pixels = np.asarray(Image.open(file).convert("RGB"))
        self.tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")

    def conclude(self, figures: Mapping[str, float]) -> None:
        """Log the final figures."""
        self.tracker.log(dict(figures), step=0)

    def close(self, is_failed: bool) -> None:
        """Close the files."""
        self.tracker.finish()


class WeightsAndBiases:
    """A run of Weights & Biases, on its server or, with WANDB_MODE=offline, in runs/wandb."""

    def __init__(self, runs: Path, about: About) -> None:
        from accelerate.tracking import WandBTracker

        runs.mkdir(parents=True, exist_ok=True)
        self.tracker = WandBTracker(
            about.project,
            name=about.name,
            id=about.run_id,
            resume="allow",
            reinit="create_new",  # an ablation has several runs at once; with this, wandb.config is not that of the run
            dir=str(runs),
            config=dict(about.params) or None,
            settings={"console": "off", "silent": True},
        )
        self.tracker.start()
        self.groups: set[str] = set()

    def log(self, group: str, row: Row) -> None:
        """Log the numbers of a step. Trainings run side by side, so each group counts its own steps."""
        if group not in self.groups:
            self.tracker.tracker.define_metric(f"{group}*", step_metric=f"{group}step")
            self.groups.add(group)
        self.tracker.log({**dict(metric_values(group, row)), f"{group}step": row.step})

    def show(self, name: str, file: Path, step: int) -> None:
        """Log a picture, at the step that its training has reached."""
        self.tracker.log_images({name: [Image.open(file)]})

    def conclude(self, figures: Mapping[str, float]) -> None:
        """Add the final figures to the run's summary."""
        self.tracker.tracker.summary.update(dict(figures))

    def close(self, is_failed: bool) -> None:
        """End the run."""
        self.tracker.tracker.finish(exit_code=int(is_failed))


PLACES: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def open_place(name: str, runs: Path, about: About) -> Place:
    """Open a run in a place. runs: the folder for its files."""
    from accelerate import PartialState

    PartialState(cpu=True)  # accelerate's trackers write their log through it; the flow itself computes nothing
    return PLACES[name](runs, about)
