"""A run that needs more room than its disks have is refused; only then are networks built to count their bytes."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from flows.preflight import room
from flows.preflight.room import check_room
from flows.preflight.run import Run
from tests.helpers.params import with_values
from tests.helpers.teachers.hub_folders import hub_folder


def test_a_disk_that_is_too_small_is_named_with_the_amount(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(check_room(run))
    usage = shutil.disk_usage(run.root)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _place: usage._replace(free=2 * 2**20))
    (line,) = check_room(run)
    assert line.startswith("the run writes ") and "but 2 MiB are free there; make room, or set DMD_SCRATCH" in line
    assert "MiB of checkpoints in " in line and "MiB of stage pairs in " in line
    assert not list(check_room(replace(run, stages=frozenset({"data", "evaluate"}))))
    (all_at_once,) = check_room(replace(run, in_place=False, at_once=100))
    assert f"439 MiB of stage pairs in {tempfile.gettempdir()}" in all_at_once


def test_room_is_counted_by_shapes(run: Run) -> None:
    sizes = room._count_bytes(run.params[0], run)  # pyright: ignore[reportPrivateUsage] - the parts of the sum
    assert sizes["data"] == 1797 * 64 and sizes["pairs"] == 9000 * 2 * 64 * 4 and sizes["train"] == sizes["teacher"] > 0
    of_hub = with_values(run.params[0], teacher={"source": "hub", "hub_id": "no/where"})
    assert room._count_bytes(of_hub, run) == {"data": 1797 * 64}  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("kind", ["ddpm", "sd", "sana", "flux2"])
def test_the_bound_of_a_teacher_in_a_folder_is_above_its_count(run: Run, tmp_path: Path, kind: str) -> None:
    hub_folder(kind, tmp_path / "teacher")
    params = with_values(run.params[0], teacher={"source": "folder", "folder": str(tmp_path / "teacher")})
    bound = room._bound_bytes(params, run)  # pyright: ignore[reportPrivateUsage] - the parts of the sum
    exact = room._count_bytes(params, run)  # pyright: ignore[reportPrivateUsage]
    assert bound["data"] == exact["data"] and {"pairs", "teacher", "train"} <= exact.keys() <= bound.keys()
    assert all(bound[stage] >= size > 0 for stage, size in exact.items())


def test_no_network_is_built_if_the_disk_has_room_for_the_bound(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_folder("ddpm", tmp_path / "teacher")
    folder = {"source": "folder", "folder": str(tmp_path / "teacher")}
    run = replace(run, params=[with_values(run.params[0], teacher=folder)])
    count, counted = room._count_bytes, []  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(room, "_count_bytes", lambda *arguments: counted.append(1) or count(*arguments))
    assert not list(check_room(run)) and not counted
    usage = shutil.disk_usage(run.root)
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _place: usage._replace(free=2 * 2**20))
    (line,) = check_room(run)
    assert counted and "4.39 MiB of stage pairs" in line  # the count, not its bound
