"""A search proposes the same trials each time, also after a kill, and cuts short those that do badly."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna.trial import TrialState

from dmd.errors import ConfigError, UserError
from flows.runtime.process import STOP, CommandStopped
from flows.tuning import flow
from flows.tuning import plan as plans
from flows.tuning import study as trials
from flows.tuning import trial as running
from flows.tuning.page import find_best, format_table, write_files
from flows.tuning.plan import Plan, load_plan
from tests.helpers.projects import ROOT

FILE = """description: a test
trials: 12
turns: [10, 20, 40]
keep: 2
seed: 3
space:
  train.lr_generator: {log: [1.0e-5, 1.0e-2]}
  method.critic_turns: [1, 3, 5]
"""


class Killed(BaseException):
    """Ends a search at once."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "experiments/presets", tmp_path / "experiments/presets")
    return tmp_path


def new_plan(root: Path, **changes: str) -> Plan:
    text = FILE
    for line, new in changes.items():
        (old,) = [x for x in text.splitlines() if x.startswith(f"{line}:")]
        text = text.replace(old, new)
    (root / "x.yaml").write_text(text)
    return load_plan(root, root / "x.yaml")


def score(values: dict, turns: int) -> float:
    """A score with its minimum at the learning rate 1e-3 and three critic turns; more turns lower it."""
    from math import log10

    distance = abs(log10(values["train.lr_generator"]) + 3) + 0.2 * abs(values["method.critic_turns"] - 3)
    return distance + 1 / turns


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], list[str]]]:
    """Experiments that take no time; a call with N kills the search in the N-th of them, and returns those that ran."""
    ran: list[str] = []
    limit = [0]

    def run(plan: Plan, member: object, log: object, is_last: bool) -> None:
        if limit[0] and len(ran) + 1 == limit[0]:
            limit[0] = 0
            raise Killed
        ran.append(member.experiment)  # type: ignore[attr-defined]

    def read(plan: Plan, member: object) -> float:
        changes = member.changes  # type: ignore[attr-defined]
        return score(changes, changes["train.generator_turns"])

    monkeypatch.setattr(running, "_run", run)
    monkeypatch.setattr(running, "read_score", read)

    def kill_at(number: int) -> list[str]:
        limit[0] = number
        return ran

    yield kill_at


def search(plan: Plan) -> None:
    """Run the trials one at a time, as flows.tuning.flow does."""
    study = trials.open_study(plan)
    waiting = trials.list_unfinished(study)
    while (number := waiting.pop(0) if waiting else trials.propose(study, plan)) is not None:
        running.run_trial(study, plan, number, lambda line: None)


def outcome(plan: Plan) -> list[tuple]:
    study = trials.open_study(plan)
    return [(t.number, t.state, t.params, t.intermediate_values) for t in study.get_trials()]


def test_a_killed_search_continues_with_the_trials_of_an_undisturbed_one(
    root: Path, tmp_path: Path, experiments: Callable[[int], list[str]]
) -> None:
    plan = new_plan(root)
    search(plan)
    whole, ran = outcome(plan), list(experiments(0))
    assert len(whole) == 12 and len(set(ran)) == len(ran)
    shutil.rmtree(root / trials.FOLDER)
    experiments(0).clear()
    for at in (2, 5, 9, 14):
        experiments(at)
        with pytest.raises(Killed):
            search(plan)
    search(plan)
    assert outcome(plan) == whole and experiments(0) == ran


def test_better_trials_go_further(root: Path, experiments: Callable[[int], list[str]]) -> None:
    plan = new_plan(root)
    search(plan)
    all_trials = trials.open_study(plan).get_trials()
    pruned = [t for t in all_trials if t.state == TrialState.PRUNED]
    assert pruned and all(len(t.intermediate_values) < 3 for t in pruned)
    for trial in pruned:
        rung = max(trial.intermediate_values)
        earlier = [t.intermediate_values[rung] for t in all_trials[: trial.number] if rung in t.intermediate_values]
        better = sum(value < trial.intermediate_values[rung] for value in earlier)
        assert better >= max(1, (len(earlier) + 1) // 2)
    finished = [t for t in all_trials if t.state == TrialState.COMPLETE]
    assert len(pruned) + len(finished) == 12 and all(len(t.intermediate_values) == 3 for t in finished)
    best = find_best(trials.open_study(plan))
    assert best is not None and best.value == min(t.intermediate_values.get(2, 99.0) for t in all_trials)


def test_a_commit_while_a_search_runs_changes_no_trial(
    root: Path, experiments: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "read_head", lambda _root: "a" * 40)
    plan = new_plan(root, trials="trials: 2")
    monkeypatch.setattr(plans, "read_head", lambda _root: "b" * 40)
    search(plan)
    search(plan)
    assert len(outcome(plan)) == 2 and not outcome(new_plan(root, trials="trials: 2"))
    assert plan.member(0, outcome(plan)[0][2], 0).commit == "a" * 40
    assert json.loads(write_files(trials.open_study(plan), plan)[0].read_text())["commit"] == "a" * 40


def test_another_seed_proposes_other_trials(root: Path, experiments: Callable[[int], list[str]]) -> None:
    search(plan := new_plan(root))
    search(other := new_plan(root, seed="seed: 4"))
    assert [t[2] for t in outcome(plan)] != [t[2] for t in outcome(other)]


def test_more_trials_continue_the_same_search(root: Path, experiments: Callable[[int], list[str]]) -> None:
    search(new_plan(root, trials="trials: 5"))
    search(plan := new_plan(root, trials="trials: 7"))
    assert len(outcome(plan)) == 7
    shutil.rmtree(root / trials.FOLDER)
    search(whole := new_plan(root, trials="trials: 7"))
    assert outcome(whole) == outcome(plan)


@pytest.mark.parametrize(
    ("mine", "scores", "keep", "goes_on"),
    [(1.0, [1.0], 2, True), (2.0, [1.0, 2.0], 2, False), (1.0, [1.0, 2.0], 2, True),
     (2.0, [1.0, 2.0, 3.0, 4.0], 2, True), (3.0, [1.0, 2.0, 3.0, 4.0], 2, False), (2.0, [1.0, 2.0, 3.0], 3, False)],
)  # fmt: skip
def test_the_best_one_of_keep_goes_on(mine: float, scores: list[float], keep: int, goes_on: bool) -> None:
    assert trials.is_promoted(mine, scores, keep) is goes_on


def test_no_trial_starts_after_the_hours_are_used_up(
    root: Path, experiments: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 1800))
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))  # each experiment takes half an hour
    search(plan := new_plan(root, keep="keep: 2\nhours: 2"))
    assert 1 < len(outcome(plan)) < 12


def test_the_hours_of_trials_that_fail_count(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **more: object) -> None:
        raise UserError("stage train ended with exit code 1")

    clock = iter(range(0, 10**6, 1800))
    monkeypatch.setattr(running, "_run", fail)
    monkeypatch.setattr(running.time, "monotonic", lambda: next(clock))  # each experiment takes half an hour
    study = trials.open_study(plan := new_plan(root, keep="keep: 2\nhours: 1"))
    while (number := trials.propose(study, plan)) is not None:
        with pytest.raises(UserError):
            running.run_trial(study, plan, number, lambda line: None)
    assert len(outcome(plan)) == 3  # a trial starts as long as no more than an hour is spent


def test_a_trial_that_fails_is_recorded_with_its_reason_and_is_not_repeated(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise UserError("stage train ended with exit code 1")

    monkeypatch.setattr(running, "_run", fail)
    plan = new_plan(root, trials="trials: 1")
    with pytest.raises(UserError):
        search(plan)
    search(plan)
    (trial,) = trials.open_study(plan).get_trials()
    assert trial.state == TrialState.FAIL and trial.user_attrs[trials.REASON] == "stage train ended with exit code 1"


def test_a_trial_whose_processes_end_with_the_flow_has_not_failed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*args: object, **more: object) -> None:
        STOP.set()
        raise UserError("`dvc exp save` failed: exit code -2")

    monkeypatch.setattr(running, "_run", end)
    plan = new_plan(root, trials="trials: 1")
    try:
        with pytest.raises(CommandStopped):
            search(plan)
    finally:
        STOP.clear()
    study = trials.open_study(plan)
    assert trials.list_unfinished(study) == [0] and trials.REASON not in trials.get_trial(study, 0).user_attrs


class Ended:
    """A trial that has ended. Before `wait`, Prefect asks its server for the state of one."""

    def __init__(self) -> None:
        self.has_waited = False

    def add_done_callback(self, call: Callable[["Ended"], None]) -> None:
        call(self)

    def wait(self) -> None:
        self.has_waited = True

    @property
    def state(self) -> str:
        assert self.has_waited
        return "completed"


def test_no_server_is_asked_whether_a_trial_has_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proposed = iter([0, 1, None])
    runner = SimpleNamespace(submit=lambda *_words: Ended())
    monkeypatch.setattr(flow, "ThreadPoolTaskRunner", lambda **_settings: nullcontext(runner))
    monkeypatch.setattr(trials, "propose", lambda *_words: next(proposed))
    plan = new_plan(root)
    assert flow.run_trials(trials.open_study(plan), plan, 2) == {0: "completed", 1: "completed"}


def test_the_page_holds_history_importance_and_table(root: Path, experiments: Callable[[int], list[str]]) -> None:
    search(plan := new_plan(root))
    study = trials.open_study(plan)
    json_file, table, page = write_files(study, plan)
    assert table.read_text().count("\n| ") == 12 + 2
    html = page.read_text()
    assert "lowest so far" in html and "train.lr_generator" in html and "PED-ANOVA" in html
    assert f"trial {find_best(study).number}" in html  # type: ignore[union-attr]
    before = json_file.read_bytes()
    write_files(study, plan)
    assert json_file.read_bytes() == before and page.read_text() == html
    best = format_table(study, plan).splitlines()[2]
    assert best.startswith(f"| {find_best(study).number} |")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "text", "words"),
    [
        ("turns", "turns: [20, 10]", "ascending order"),
        ("trials", "trials: 0", "greater than or equal to 1"),
        ("seed", "base: {train.seed: 1}", "train.seed: write train_seed in place of it"),
        ("seed", "base: {method.critic_turns: 2}", "is also in space"),
        ("description", "description: d\nspase: {}", "spase: extra inputs"),
        ("seed", "preset: quickly", "no preset 'quickly'"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(root: Path, line: str, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as e:
        new_plan(root, **{line: text})
    assert len(str(e.value).splitlines()) == 1


def test_a_bound_that_params_yaml_does_not_allow_is_named_before_the_first_trial(root: Path) -> None:
    (root / "x.yaml").write_text(FILE.replace("1.0e-2]", "3.0]"))
    with pytest.raises(ConfigError, match=r"search x, train\.lr_generator: 3\.0: .*less than or equal to 1"):
        load_plan(root, root / "x.yaml")


def test_a_preset_gives_way_to_the_space(root: Path) -> None:
    plan = new_plan(root, seed="preset: quick\nbase: {pairs.count: 7}")
    changes = plan.member(4, {"train.lr_generator": 1e-3, "method.critic_turns": 3}, 1).changes
    assert (
        changes["pairs.count"] == 7 and changes["train.generator_turns"] == 20 and changes["train.lr_generator"] == 1e-3
    )
