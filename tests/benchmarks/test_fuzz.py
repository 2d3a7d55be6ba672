"""Damaged inputs are refused in a clear line or give a valid result; and a fault of any kind is recorded as one."""

import json
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz
from benchmarks.fuzzing import limits, mutations, worker
from benchmarks.fuzzing.kinds import KINDS, load_kind
from dmd.errors import DataError, UserError
from dmd.yaml_files import parse_json, parse_yaml

OF_TEXT = ("params.yaml", "preset", "ablation", "search", "overrides", "metrics.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_refused_or_give_a_valid_result(kind: str, tmp_path: Path) -> None:
    """The short form of `python -m benchmarks.fuzz`: six inputs of each kind, 102 in all."""
    out = tmp_path / "table.json"
    assert fuzz.main(["--kinds", kind, "--inputs", "6", "--out", str(out)]) == 0, out.read_text()
    rows = json.loads(out.read_text())["inputs"]
    assert [row["number"] for row in rows] == list(range(6)) and all(row["message"] for row in rows)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A good input of each kind that is read in milliseconds."""
    folders = {kind: tmp_path_factory.mktemp("good") for kind in OF_TEXT}
    for kind, folder in folders.items():
        load_kind(kind).build(folder)
    return folders


@pytest.mark.parametrize("kind", OF_TEXT)
@settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(rng=st.randoms(use_true_random=False))
def test_no_change_of_a_file_of_parameters_or_measures_is_a_fault(
    good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, kind: str, rng: random.Random
) -> None:
    place = tmp_path_factory.mktemp("used") / "input"
    shutil.copytree(good[kind], place)
    reader = load_kind(kind)
    what = reader.damage(rng, place)
    outcome, message = limits.judge(lambda: reader.use(place), reader.refusals)
    assert outcome != limits.FAULT, f"{what}: {message}"


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200).map(lambda b: b.decode(errors="surrogateescape"))))
def test_any_text_is_yaml_and_json_or_one_line(text: str) -> None:
    for read in (lambda: parse_yaml(text, "file"), lambda: parse_json(text, "file", DataError)):
        outcome, message = limits.judge(lambda read=read: str(read()), (UserError,))
        assert outcome != limits.FAULT, message
        assert outcome == limits.VALID or len(message.splitlines()) == 1


class Planted:
    """A kind with a fault of the code that reads it."""

    refusals = (UserError,)

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def build(self, folder: Path) -> None:
        (folder / "a").write_text("good")

    def damage(self, rng: random.Random, folder: Path) -> str:
        (folder / "a").write_text(self.fault)
        return self.fault

    def use(self, folder: Path) -> str:
        match (folder / "a").read_text():
            case "traceback":
                raise KeyError("a")
            case "memory":
                return str(len(bytearray(3 * limits.GIB)))
            case "control":
                raise UserError("a\n\nb")
            case "damaged":
                raise limits.DamagedResultError("other labels")
            case "busy":
                end = time.process_time() + 2
                while time.process_time() < end:
                    pass
        return "taken"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("traceback", "KeyError"),
        ("memory", "MemoryError"),
        ("control", "an unclear refusal (an empty line)"),
        ("damaged", "a damaged result: other labels"),
        ("busy", "s of CPU time"),
    ],
)
def test_a_planted_fault_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: str, words: str) -> None:
    monkeypatch.setattr(worker, "CPU_SECONDS", 1)
    kind, good = Planted(fault), tmp_path / "good"
    good.mkdir()
    kind.build(good)
    limits.forget_peak()
    outcome = worker.use_damaged(kind, "planted", 0, 0, good, tmp_path / "used", limits.peak())
    assert outcome.outcome == limits.FAULT and words in outcome.message and outcome.injected == fault


def test_a_process_that_dies_is_a_fault_and_the_next_input_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker is killed at input 1; a second one goes on with input 2."""
    program = (
        "import json, os, sys\n"
        "out = open(sys.argv[1], 'a')\n"
        "for n in map(int, sys.argv[2].split(',')):\n"
        "    print(json.dumps({'begins': n}), file=out, flush=True)\n"
        "    if n == 1: os.kill(os.getpid(), 24)\n"
        "    row = {'kind': 'k', 'number': n, 'outcome': 'valid', 'cpu': 0, 'memory': 0}\n"
        "    print(json.dumps(row), file=out, flush=True)\n"
    )
    start = fuzz.subprocess.run
    monkeypatch.setattr(
        fuzz.subprocess, "run", lambda argv, **kw: start([argv[0], "-c", program, argv[-1], argv[-2]], **kw)
    )
    rows = list(fuzz.run_kind("k", 0, [0, 1, 2]))
    assert [(row["number"], row["outcome"]) for row in rows] == [(0, "valid"), (1, "fault"), (2, "valid")]
    assert rows[1]["message"] == f"more than {limits.CPU_SECONDS} s of CPU time"


def test_the_same_seed_gives_the_same_change(tmp_path: Path) -> None:
    content = json.dumps({"a": [1, 2, {"b": "c"}], "d": None})
    made = []
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "file.json"
        file.write_text(content)
        made.append((mutations.change_json(random.Random(6), file), file.read_text()))
    assert made[0] == made[1] and made[0][1] != content


def test_fewer_inputs_than_kinds_leave_the_last_kinds_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The inputs are not run: each is refused."""

    def refuse(kind: str, _seed: int, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return [limits.Outcome(kind, number, "", limits.REFUSED, "no").as_row() for number in numbers]

    monkeypatch.setattr(fuzz, "run_kind", refuse)
    out = tmp_path / "fuzz.json"
    assert fuzz.main(["--inputs", "2", "--kinds", "preset", "search", "pickle", "--out", str(out)]) == 0
    assert list(json.loads(out.read_text())["kinds"]) == ["preset", "search"]
