"""The flow is DVC's graph, and a task reports whether DVC ran, restored or skipped its stage."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.states import Failed
from ruamel.yaml import YAML

from dmd.errors import UserError
from dmd.storage.worktree import main_worktree
from flows import distill
from flows.pipeline.tasks import make_stage_task, run_stage
from flows.registry.result import load_result
from flows.runtime.file_lock import hold_lock
from flows.workspace import repro
from flows.workspace.graph import DvcBusyError, StageSpec, is_up_to_date, list_stale, read_graph, select_stages
from flows.workspace.repro import StageError, reproduce
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.toy_graph import TOY, ignore_line, one_stage, write_stages

# The graph


def owner(path: str, stages: dict[str, Any]) -> str | None:
    """The stage of dvc.yaml that has `path`, or a folder of `path`, as an output."""
    for name, entry in stages.items():
        outs = [
            next(iter(o)) if isinstance(o, dict) else o
            for key in ("outs", "metrics", "plots")
            for o in entry.get(key, [])
        ]
        if any(Path(path).is_relative_to(out) for out in outs):
            return name
    return None


def test_the_flow_has_the_stages_of_dvc_yaml_and_their_settings():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    graph = read_graph(ROOT)
    assert graph.keys() == stages.keys()
    for name, spec in graph.items():
        owners = {owner(dep, stages) for dep in stages[name].get("deps", [])}
        assert set(spec.deps) == owners - {None}
        settings = stages[name].get("meta", {}).get("prefect", {})
        task = make_stage_task(spec)
        assert (task.name, task.task_run_name, task.retries) == (name, name, settings.get("retries", 0))
        assert (spec.timeout, task.tags) == (settings.get("timeout"), set(settings.get("tags", [])))


def test_a_stage_added_to_dvc_yaml_alone_is_in_the_flow(toy: Path):
    assert read_graph(toy).keys() == TOY.keys()
    write_stages(
        toy, {**TOY, "third": {"cmd": "cp second.txt third.txt", "deps": ["second.txt"], "outs": ["third.txt"]}}
    )
    graph = read_graph(toy)
    assert graph["third"].deps == ("second",)
    assert graph["first"] == StageSpec(name="first", deps=(), desc="a copy", retries=2, timeout=60, tags=("cpu",))


def test_stages_come_after_their_dependencies(toy: Path):
    write_stages(toy, dict(reversed(TOY.items())))
    order = list(read_graph(toy))
    assert order.index("first") < order.index("second")
    assert select_stages(read_graph(toy), "second") == ["first", "second"]
    with pytest.raises(UserError, match=r"there is no stage 'secnod' in dvc\.yaml; it has"):
        select_stages(read_graph(toy), "secnod")


def test_a_broken_dvc_yaml_is_one_line(toy: Path):
    write_stages(toy, {"first": {**TOY["first"], "meta": {"prefect": {"retry": 1}}}})
    with pytest.raises(UserError, match=r"^dvc.yaml: stage first: meta.prefect: retry: .*not permitted$"):
        read_graph(toy)
    write_stages(toy, {"first": {**TOY["first"], "deps": ["first.txt"]}})
    with pytest.raises(UserError, match=r"^DVC can't read the graph in .*$"):
        read_graph(toy)


def test_a_project_outside_git_is_an_error_with_a_remedy(toy: Path):
    shutil.rmtree(toy / ".git")
    with pytest.raises(UserError, match=r"^DVC can't read the graph in .*; use git clone, not an archive$"):
        read_graph(toy)


# Outcomes of stages


def test_a_stage_reports_ran_unchanged_or_restored(toy: Path):
    graph = read_graph(toy)
    assert list_stale(toy) == ["aside", "first", "second"]
    assert [reproduce(spec, toy, ignore_line) for spec in graph.values()] == ["Ran"] * 3
    assert (toy / "second.txt").read_text() == "1\n1\n"
    assert is_up_to_date(toy)
    assert reproduce(graph["first"], toy, ignore_line) == "Unchanged"
    (toy / "source.txt").write_text("2\n")
    assert not is_up_to_date(toy)
    assert reproduce(graph["first"], toy, ignore_line) == "Ran"
    (toy / "source.txt").write_text("1\n")
    assert reproduce(graph["first"], toy, ignore_line) == "Restored"
    assert (toy / "first.txt").read_text() == "1\n"


def test_a_stage_runs_by_this_interpreter_and_its_output_streams(toy: Path):
    spec = one_stage(toy, 'python -c "import sys; print(sys.executable)" && sleep 2 && echo done > out.txt && echo end')
    lines: dict[str, float] = {}

    def hear(line: str) -> None:
        lines[line] = time.monotonic()

    reproduce(spec, toy, hear)
    assert lines["end"] - lines[sys.executable] > 1
    assert not [line for line in lines if "git add" in line or "dvc push" in line]


@pytest.mark.parametrize(
    "cmd, message, explained",
    [
        ("echo 'error: one: the sky fell' >&2; exit 1", "stage one: the sky fell", True),
        ("echo nonsense; exit 3", "stage one: failed to run: echo nonsense; exit 3, exited with 3", False),
        (
            "kill -9 $$",
            "stage one: failed to run: kill -9 $$, exited with -9 (ended by SIGKILL; is there enough memory?)",
            False,
        ),
        ("true", "stage one: output 'out.txt' does not exist", False),
    ],
)
def test_a_failing_stage_is_one_line(toy: Path, cmd: str, message: str, explained: bool):
    with pytest.raises(StageError) as e:
        reproduce(one_stage(toy, cmd), toy, ignore_line)
    assert (str(e.value), e.value.explained) == (message, explained)


def test_only_a_failure_without_a_reason_is_retried():
    assert run_stage.retry_condition_fn is not None
    for explained in (True, False):
        state = Failed(data=StageError("one", "gone", explained=explained))
        assert run_stage.retry_condition_fn(run_stage, None, state) is not explained  # pyright: ignore[reportArgumentType]


def test_a_stage_waits_for_another_process_that_locks_its_files(toy: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(repro, "BUSY_DELAY", 0.1)
    lock = toy / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    holder = {"pid": os.getpid(), "cmd": "another dvc"}
    lock.write_text(json.dumps({"write": {str(toy / "first.txt"): holder}}))
    lines: list[str] = []

    def hear(line: str) -> None:
        lines.append(line)
        if line.startswith("waiting:"):
            lock.write_text("{}")

    assert reproduce(read_graph(toy)["first"], toy, hear) == "Ran"
    assert len([line for line in lines if line.startswith("waiting:")]) == 1


def test_a_result_waits_for_another_process_of_dvc(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    answers: list[DvcBusyError | list[str]] = [DvcBusyError("busy"), DvcBusyError("busy"), ["first"]]

    def answer(_root: Path) -> list[str]:
        if isinstance(state := answers.pop(0), DvcBusyError):
            raise state
        return state

    monkeypatch.setattr(repro, "list_stale", answer)
    monkeypatch.setattr(repro, "BUSY_DELAY", 0.0)
    with pytest.raises(UserError, match=r"differs from dvc\.lock in first"):
        load_result(toy)
    assert capsys.readouterr().err == "note: waiting: busy\n"
    answers.append(DvcBusyError("still busy"))
    monkeypatch.setattr(repro, "BUSY_PATIENCE", -1.0)
    with pytest.raises(UserError, match="still busy"):
        load_result(toy)


# The command


def test_a_wrong_params_file_is_an_error_before_any_work(toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    shutil.copy(ROOT / "params.yaml", toy)
    set_params(toy / "params.yaml", {}, renames={"method.critic_turns": "critic_turn"})
    monkeypatch.chdir(toy)
    monkeypatch.setattr(signal, "signal", lambda *_args: None)
    assert distill.main([]) == 2
    err = capsys.readouterr().err.splitlines()
    assert err
    assert all(line.startswith("error: ") for line in err)
    assert "method.critic_turn" in err[0]
    assert list_stale(toy) == ["aside", "first", "second"]


def test_a_folder_without_a_pipeline_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_args: None)
    assert distill.main([]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} has no dvc.yaml: run this in the project's own folder\n"


def test_a_second_run_in_the_same_folder_is_an_error_that_names_the_first(tmp_path: Path):
    lock = tmp_path / "lock"
    with hold_lock(lock):
        mine = rf"^at work \(pid {os.getpid()}\)$"
        with pytest.raises(UserError, match=mine), hold_lock(lock, busy="at work"):
            pytest.fail("two at a time")
    with hold_lock(lock, busy="at work"):
        pass


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(UserError, match=r"lock cannot be locked \(Function not implemented\)"):
        hold_lock(tmp_path / "lock").__enter__()


def test_a_process_waits_for_a_lock(tmp_path: Path):
    order: list[str] = []

    def second() -> None:
        with hold_lock(tmp_path / "lock"):
            order.append("second")

    with hold_lock(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]


def test_another_worktree_knows_the_main_worktree(toy: Path, tmp_path_factory: pytest.TempPathFactory):
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "toy"], cwd=toy, check=True)
    other = tmp_path_factory.mktemp("other") / "tree"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(other)], cwd=toy, check=True)
    assert main_worktree(other) == main_worktree(toy) == toy
    assert main_worktree(other.parent) == other.parent
