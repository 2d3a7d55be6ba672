"""Records of a training for the evaluation: validation pictures, the identities of trunks, and the cost."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmd.config import NONE
from dmd.data.splits import Split, images_sha256
from dmd.distillation.methods import Method
from dmd.distillation.phases import Phase
from dmd.features.facts import LPIPS, TrunkFacts, describe, read_facts, write_facts
from dmd.features.load import family
from dmd.features.own import OWN
from dmd.generator.cost import write_cost
from dmd.storage.events import Event, write_events
from dmd.storage.files import copy_files, sha256


def write_records(
    rows: Sequence[Mapping[str, Any]],
    events: Sequence[Event],
    phases: Iterable[Phase],
    facts: Iterable[TrunkFacts],
    scratch: Path,
    out: Path,
) -> None:
    """Write the records of a finished training into a new folder, which appears whole.

    rows: the training log. events: times at which the training went wrong. facts: of the frozen networks that it
    learned from. scratch: the folder with the pictures. Pictures of turns after the last row, which a run that rolled
    back may have left, are not copied.
    """
    cost = write_cost(len(rows), count_images(phases, rows[-1]["step"]), scratch)
    pictures = [file for file in sorted(scratch.glob("turn_*.png")) if int(file.stem.split("_")[1]) <= rows[-1]["turn"]]
    files = [*pictures, write_facts(facts, scratch), cost, *write_events(events, scratch)]
    copy_files(files, out)


def learned_from(method: Method, split: Split) -> list[TrunkFacts]:
    """The facts of the frozen networks of images that a generator learns from, with those of method.init_from.

    split: the train split. Raises FeatureNetworkError if the facts of method.init_from are damaged.
    """
    cfg = method.cfg
    facts = describe(method.frozen, images_sha256(split.images) if OWN in method.frozen else "")
    if cfg.regression_loss == LPIPS:
        facts.append(TrunkFacts(name=LPIPS, family=family("vgg"), sha256=sha256(Path(cfg.lpips.weights))))
    before = read_facts(Path(cfg.init_from)) if cfg.init_from != NONE else []
    return list(dict.fromkeys([*facts, *before]))


def count_images(phases: Iterable[Phase], steps: int) -> dict[str, int]:
    """Number of images in all turns of each network, by its name. steps: those done, over all phases."""
    images: dict[str, int] = {}
    for phase in phases:
        done = min(steps, phase.steps)
        for turn in phase.turns:
            images[turn.network] = images.get(turn.network, 0) + done // turn.every * turn.batch_size
        steps -= done
    return images
