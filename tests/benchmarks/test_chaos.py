"""The plan of faults meets every moment, a difference is seen, and a project with faults ends like one without."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import chaos
from benchmarks.wrecking import checks, plan, runs
from benchmarks.wrecking.checks import State, list_files
from benchmarks.wrecking.plan import KILL, KILL_ALL, KILL_STAGE, KILLS, MOMENTS, OTHERS, PAUSE, TERM, Fault, make_plan


@pytest.mark.slow
@pytest.mark.long
def test_a_project_with_faults_ends_like_one_without(tmp_path: Path) -> None:
    """The short form of `python -m benchmarks.chaos`: a life with two SIGKILLs and a SIGTERM."""
    out = tmp_path / "table.json"
    assert chaos.main(["--kills", "2", "--lives", "0", "--out", str(out), "--work", str(tmp_path)]) == 0
    (life,) = json.loads(out.read_text())["lives"]
    assert len([fault for fault in life["faults"] if fault["injected"]]) == 3 and life["differences"] == []


def test_the_plan_spreads_the_kills_over_all_moments_and_has_every_other_fault() -> None:
    lives = make_plan(0, 60)
    faults = [fault for life in lives for fault in life.faults]
    kills = [fault for fault in faults if fault.kind in KILLS]
    assert len(kills) == 60 and {fault.moment for fault in kills} == set(MOMENTS)
    assert {fault.kind for fault in kills} == set(KILLS)
    others = {*OTHERS, plan.FULL_DISK, plan.READ_ONLY, plan.KILL_MLFLOW, plan.KILL_PREFECT}
    assert {fault.kind for fault in faults} == {*KILLS, *others}
    assert {life.command for life in lives} == {plan.FLOW, plan.SERVERS, plan.SEARCH}
    assert all(life.faults == tuple(sorted(life.faults, key=lambda f: MOMENTS.index(f.moment))) for life in lives)
    assert make_plan(0, 60) == lives != make_plan(1, 60)


SLEEP = "import time; time.sleep(60)"
PROGRAM = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}])"


@pytest.mark.parametrize("kind", [KILL_ALL, TERM])
def test_a_fault_meets_the_run(tmp_path: Path, kind: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    run = runs.Run(project, ["-c", PROGRAM], os.environ)
    ended = run.follow(Fault(kind, plan.START, 1.0), {plan.START: 1.0})
    assert ended.injected and ended.code in (-9, -15) and ended.parts[plan.START] >= 1.0
    for member in run.members():
        member.kill()


def test_a_fault_meets_a_stage_that_runs_beside_another(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    both = (
        "import subprocess, sys\n"
        f"words = sys.executable, '-c', {SLEEP!r}\n"
        "stages = [subprocess.Popen([*words, f'stages.{name}']) for name in ('a', 'trunk')]\n"
        "sys.exit(max(stage.wait() != 0 for stage in stages))"
    )
    run = runs.Run(project, ["-c", both], os.environ)
    ended = run.follow(Fault(KILL_STAGE, "trunk", 0.5), {"trunk": 1.0})
    assert (ended.injected, ended.code) == (True, 1) and {"a", "trunk"} <= ended.parts.keys()


def test_a_pause_lets_the_run_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runs, "PAUSED", 0.5)
    (tmp_path / "project").mkdir()
    run = runs.Run(tmp_path / "project", ["-c", "import time; time.sleep(1); print('done')"], os.environ)
    ended = run.follow(Fault(PAUSE, plan.START, 0.1), {})
    assert (ended.injected, ended.code, ended.output) == (True, 0, "done\n")


def test_a_fault_whose_moment_never_comes_is_not_injected(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    run = runs.Run(tmp_path / "project", ["-c", "pass"], os.environ)
    ended = run.follow(Fault(KILL, "train", 0.0), {})
    assert not ended.injected and ended.code == 0


def test_every_difference_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("artifacts/generator/net", "reports/metrics.json", "runs/train-0123456789abcdef/state.pt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    monkeypatch.setattr(checks, "versions", lambda _: [2, 1, 1])
    monkeypatch.setattr(checks, "LEFT", 0.5)
    state = State({"artifacts/generator": "other", "reports/metrics.json": "other"}, [1, 1, 0], frozenset({"gone"}), "")
    busy = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=tmp_path)
    try:
        found = list(checks.find_differences(tmp_path, state, os.environ))
    finally:
        busy.kill()
    assert [text.split(":")[0] for text in found] == [
        "processes are left",
        "artifacts/generator has other bytes",
        "reports/metrics.json has other bytes",
        "versions, MLflow runs, running ones",
        "stray files",
        "missing files",
        "dvc status",
    ]
    assert "runs/train-#/state.pt" in found[4] and "runs/train-#/state.pt" in set(list_files(tmp_path))


def test_a_traceback_is_a_difference() -> None:
    assert chaos.judge(runs.Ended(1, "Traceback (most recent call last):\n  x", 1.0))["wrong"]
    assert not chaos.judge(runs.Ended(75, "error: stopped by SIGTERM", 1.0))["wrong"]


def test_a_life_that_the_plan_lacks_is_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        chaos.main(["--kills", "2", "--lives", "9"])
    assert "--lives: the plan has no life 9; its lives are 0 to 2" in capsys.readouterr().err


def test_a_table_keeps_the_other_lives_of_its_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lives take hours, so that they may run in several calls."""
    monkeypatch.setattr(chaos.Laboratory, "live", lambda _self, _life, k: {
        "life": k, "command": "flow", "commit": "abc", "faults": [], "differences": ["x"] if k == 2 else [],
    })  # fmt: skip
    out = tmp_path / "chaos.json"

    def lives(*words: str) -> list[int]:
        chaos.main([*words, "--kills", "12", "--out", str(out), "--work", str(tmp_path)])
        return [life["life"] for life in json.loads(out.read_text())["lives"]]

    assert lives("--lives", "3", "1") == [1, 3]
    assert lives("--lives", "0", "1") == [0, 1, 3]
    assert chaos.main(["--kills", "12", "--lives", "2", "--out", str(out), "--work", str(tmp_path)]) == 1
    assert lives("--seed", "1", "--lives", "0") == [0]


def test_the_next_fault_meets_a_new_project_once_a_run_is_complete(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A complete project has no stage left to disturb. A fault that came too late is tried again, earlier."""
    ends = iter(
        [runs.Ended(-9, "", 1.0, injected=True), runs.Ended(0, "", 1.0), runs.Ended(-15, "", 1.0, injected=True)]
    )
    met = list[tuple[str, Fault]]()

    def disturb(_: object, project: Path, _life: plan.Life, fault: Fault, *_args: object) -> runs.Ended:
        met.append((project.name, fault))
        return next(ends)

    class Last:
        def __init__(self, *_: object) -> None: ...
        def follow(self, *_: object) -> runs.Ended:
            return runs.Ended(0, "", 1.0)

    compared = list[Path]()
    monkeypatch.setattr(chaos.Laboratory, "_without_faults", lambda *_: (None, runs.Ended(0, "", 1.0)))
    monkeypatch.setattr(chaos.Laboratory, "_copy", lambda self, name: self.work / name)
    monkeypatch.setattr(chaos.Laboratory, "_disturb", disturb)
    monkeypatch.setattr(chaos, "Run", Last)
    monkeypatch.setattr(chaos, "find_differences", lambda project, *_: compared.append(project) or [])
    first, late = Fault(KILL, "data", 0.5), Fault(TERM, "train", 0.4)
    life = chaos.Laboratory(tmp_path).live(plan.Life(plan.FLOW, (first, late)), 7)
    assert met == [("life7-0", first), ("life7-0", late), ("life7-2", Fault(TERM, "train", 0.2))]
    assert [row["injected"] for row in life["faults"]] == [True, False, True] and life["differences"] == []
    assert [path.name for path in compared] == ["life7-0", "life7-2"]
