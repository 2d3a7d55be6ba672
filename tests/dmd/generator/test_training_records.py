"""The records of a training count the images in the turns of each network."""

from pathlib import Path
from typing import Any

from dmd.distillation.phases import Phase, Turn
from dmd.distillation.records import count_images, write_records
from dmd.features.facts import read_facts
from dmd.generator.cost import read_cost
from evaluation.metrics.schema import TrainingCost


def phase(name: str, steps: int, *turns: Turn) -> Phase:
    loss: Any = None
    return Phase(name=name, steps=steps, turns=turns, loss=loss, lr_schedule="constant")


PHASES = (
    phase("warm_start", 4, Turn("generator", 1, 128, 1.0)),
    phase(
        "dmd",
        10,
        Turn("critic", 1, 64, 1.0),
        Turn("critic", 5, 8, 1.0, "penalty"),
        Turn("generator", 5, 96, 1.0),
    ),
)


def test_images_are_those_of_all_turns_of_a_network() -> None:
    assert count_images(PHASES, 14) == {"generator": 4 * 128 + 2 * 96, "critic": 10 * 64 + 2 * 8}


def test_a_run_that_ends_early_counts_the_turns_that_it_took() -> None:
    assert count_images(PHASES, 9) == {"generator": 4 * 128 + 96, "critic": 5 * 64 + 8}
    assert count_images(PHASES, 3) == {"generator": 3 * 128, "critic": 0}


def test_the_folder_holds_pictures_trunks_and_the_cost(tmp_path: Path) -> None:
    (tmp_path / "turn_000006.png").write_bytes(b"picture")
    rows = [{"turn": 5, "step": 9}, {"turn": 6, "step": 14}]
    write_records(rows, [], PHASES, [], tmp_path, tmp_path / "out")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == ["cost.json", "trunks.json", "turn_000006.png"]
    assert read_facts(tmp_path / "out") == []
    cost = TrainingCost.model_validate(read_cost(tmp_path / "out"))
    assert (cost.turns, cost.images, cost.images_of) == (2, 704, {"critic": 656})
    assert read_cost(tmp_path) is not None and read_cost(tmp_path / "nothing") is None
