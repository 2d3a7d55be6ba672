"""The file of an ablation, its members and their comparison."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from ruamel.yaml import YAML

from dmd.errors import ConfigError, UserError
from evaluation.metrics.schema import Metrics
from flows.ablation import experiment
from flows.ablation.comparison import (
    RowSummary,
    format_table,
    headline,
    mean_and_std,
    pixel_statistics,
    summarize,
    training_cost,
    write_comparison,
)
from flows.ablation.plan import (
    Ablation,
    Plan,
    Row,
    downstream_groups,
    list_members,
    load_ablation,
    load_plan,
    split_waves,
)
from flows.ablation.record import keep
from flows.pipeline.presets import load_preset
from flows.runtime.git import git, read_head
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, run_metrics

DOWNSTREAM = {"method", "train", "evaluate"}


def metrics(ratio: float, **values: Any) -> Metrics:
    shares = {"precision": {"a": 0.5, "b": 0.7}, "recall": {"a": 0.9, "b": 0.9}}
    student = generator_measures({"a": 1.0, "b": 3.0}, **{"kid": {}, "clip_score": 70 + ratio} | shares | values)
    return run_metrics(student, {"a": ratio, "b": ratio + 1})


def ablation(**changes: object) -> Ablation:
    rows = [Row(name="one", changes={}), Row(name="two", changes={"method.critic_turns": 2})]
    return Ablation(**{"description": "d", "seeds": [0, 1], "rows": rows, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("file", sorted((ROOT / "experiments" / "ablations").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_shipped_ablations_fit_params_yaml(file: Path) -> None:
    members = load_plan(ROOT, file).members
    assert len({m.experiment for m in members}) == len(members)
    assert len({m.upstream for m in members}) == {"teachers": 4}.get(file.stem, 1)


def test_the_downstream_groups_come_from_dvc_yaml() -> None:
    assert downstream_groups(ROOT) == DOWNSTREAM


def test_a_member_is_a_row_with_a_seed_and_its_name_depends_on_its_parameters() -> None:
    members = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    assert [(m.row, m.seed) for m in members] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert members[3].changes == {"method.critic_turns": 2, "train.seed": 1}
    again = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    other = list_members("x", ablation(base={"train.batch_size": 32}), ROOT / "params.yaml", DOWNSTREAM, "")
    assert members == again and not {m.experiment for m in members} & {m.experiment for m in other}


def test_a_preset_comes_before_base_and_rows(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "experiments" / "presets", tmp_path / "experiments" / "presets")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    file = tmp_path / "x.yaml"
    file.write_text(
        "description: d\npreset: quick\nseeds: [3]\nbase: {pairs.count: 7}\n"
        "rows: [{name: a, changes: {}}, {name: b, changes: {baseline.samples: 50}}]\n"
    )
    a, b = load_plan(tmp_path, file).members
    quick = load_preset(ROOT, "quick").changes
    assert a.changes == {**quick, "pairs.count": 7, "train.seed": 3} and quick["pairs.count"] != 7
    assert b.changes == {**a.changes, "baseline.samples": 50}
    file.write_text(file.read_text().replace("quick", "quickly"))
    with pytest.raises(ConfigError, match="no preset 'quickly'"):
        load_plan(tmp_path, file)


def test_an_unknown_row_is_reported_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"has no row 'v_cosin'; it has v_cosine, eps_linear, edm, flow$"):
        keep(ROOT, ROOT / "experiments" / "ablations" / "teachers.yaml", "v_cosin")


def test_members_share_the_stages_upstream_of_their_changes() -> None:
    rows = [Row(name="a", changes={}), Row(name="b", changes={"train.batch_size": 32})]
    rows += [Row(name="c", changes={"teacher.steps": 10})]
    a, b, c = list_members("x", ablation(rows=rows, seeds=[0]), ROOT / "params.yaml", DOWNSTREAM, "")
    assert a.upstream == b.upstream != c.upstream
    assert split_waves([a, b, c]) == ([a, c], [b]) and split_waves([b, c]) == ([b, c], [])


def test_a_grid_has_a_row_for_each_combination() -> None:
    grid = {"method.critic_turns": [1, 5], "method.gan.weight": [0.003]}
    rows = ablation(rows=[], grid=grid).all_rows()
    assert [r.name for r in rows] == ["critic_turns_1_weight_0_003", "critic_turns_5_weight_0_003"]
    assert rows[1].changes == {"method.critic_turns": 5, "method.gan.weight": 0.003}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description: d\nseeds: [0]", "list variants under rows"),
        ("description: d\nseeds: []\nrows: [{name: a, changes: {}}]", "seeds"),
        ("description: d\nseeds: [0]\nrows: [{name: a, changes: {}}, {name: a, changes: {}}]", "'a' occurs twice"),
        ("description: d\nseeds: [0, 1, 0]\nrows: [{name: a, changes: {}}]", "seeds: 0, 1, 0: list each seed once"),
        ("description: d\nseeds: [0]\nrows: [{name: a, changes: {}}]\nat_one: 2", "at_one"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_reported(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_ablation(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method.critic_turn": 2}, "ablation x, row r: method.critic_turn: params.yaml has no such key"),
        ({"critic_turns": 2}, "critic_turns: params.yaml has no such key"),
        ({"method.critic_turns": 0}, "ablation x, row r: method.critic_turns: 0 is not allowed"),
        ({"pairs.count": 0}, "train.warm_start.turns: 2000 needs pairs"),
        ({"train.seed": 7}, "ablation x: train.seed: `seeds` sets it for each member; list the values there"),
    ],
)
def test_a_change_that_params_do_not_allow_names_its_row(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        list_members("x", ablation(rows=[Row(name="r", changes=changes)]), ROOT / "params.yaml", DOWNSTREAM, "")


def test_rows_have_mean_and_spread_over_seeds() -> None:
    members = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    results = dict(zip(members, [*(headline(metrics(r)) for r in (1.0, 2.0, 5.0)), None], strict=True))
    one, two = summarize(ablation(), results)
    assert one.measures["fd_ratio.a"] == (1.5, pytest.approx(0.5**0.5)) and one.measures["fd_ratio"].mean == 2.0
    assert one.seeds == [0, 1] and one.failed == [] and two.seeds == [0] and two.failed == [1]
    assert one.measures["precision"].mean == pytest.approx(0.6) and one.measures["clip_score"].mean == 71.5
    assert "kid" not in one.measures and two.measures["fd_ratio"] == (5.5, None)
    text = format_table([one, two, RowSummary("none", {}, seeds=[], failed=[0, 1], measures={})])
    assert "| one | 2 | 2.000 ± 0.707 | 71.500 ± 0.707 |" in text and "| none | 0 (missing: 0, 1) | failed |" in text
    assert "| two | 1 (missing: 1) | 5.500 | 75.000 |" in text and two.measures["fd_ratio"].interval == (5.5, 5.5)


def test_the_table_says_what_it_is_of(tmp_path: Path) -> None:
    """The training cost of each row is a column; the line above the table names the rest."""
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--allow-empty", "-qm", "one"],
    ):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    file = ablation(base={"method.name": "dmd2"})
    head = read_head(tmp_path)
    members = list_members("x", file, ROOT / "params.yaml", DOWNSTREAM, head)
    plan = Plan("x", file, members, YAML(typ="safe").load(ROOT / "params.yaml"), head)
    log = pd.DataFrame({"turn": range(1, 2151)})
    rows = summarize(file, {m: headline(metrics(1.0 + m.seed)) | training_cost(log) for m in members})
    _, table = write_comparison(tmp_path, plan, rows)
    title, _, head, *_ = table.read_text().splitlines()
    commit, date = git(tmp_path, "log", "-1", "--format=%h %cs").split()
    for words in (
        "Data: digits. Method: dmd2.", f"Commit {commit} of {date}.",
        "Judges: a, b; clip_score is by evaluator; other measures",
        "of 3 x 1,797 images", "Lower is better: fd_ratio. Higher is better: clip_score, precision, recall.",
    ):  # fmt: skip
        assert words in title, (words, title)
    assert head.endswith("| generator turns |") and "| 2,150 |" in table.read_text()


def test_marks_of_judges_and_the_mean_of_the_unmarked_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    plan = Plan("x", ablation(), members, YAML(typ="safe").load(ROOT / "params.yaml"), "")
    marked = metrics(2.0)
    marked.ratio.selects, marked.ratio.unseen = ["a"], 1.5
    monkeypatch.setattr(experiment, "load_metrics", lambda *_: marked)
    rows = summarize(ablation(), {m: headline(marked) for m in members})
    title, _, head, _, row, *_ = write_comparison(tmp_path, plan, rows)[1].read_text().splitlines()
    assert "Judges: a (selects), b;" in title
    assert head.startswith("| row | seeds | fd_ratio | fd_ratio_unseen |") and "| 1.500 ± 0.000 |" in row


def test_a_row_is_equal_after_writing_and_reading_json() -> None:
    members = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    _, row = summarize(ablation(), {m: headline(metrics(1.0 + m.seed)) for m in members})
    record = json.loads(json.dumps(row.to_dict()))
    assert record["changes"] == {"method.critic_turns": 2} and record["fd_ratio"]["mean"] == 2.0
    assert RowSummary.from_dict(record) == row


def test_a_measure_that_a_seed_lacks_is_left_out() -> None:
    """A run without conditioning has no CLIP score, and the log of another method may lack a column."""
    members = list_members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM, "")
    results = {m: headline(metrics(1.0)) | ({"generator_x_mean": 0.5} if m.seed == 0 else {}) for m in members}
    assert all("generator_x_mean" not in row.measures for row in summarize(ablation(), results))
    blind = metrics(1.0, clip_score=None)
    assert "clip_score" not in headline(blind)
    row, _ = summarize(ablation(), dict.fromkeys(members, headline(blind)))
    assert "| \N{EN DASH} |" in format_table([row])


def test_pixel_statistics_cover_the_last_generator_turns() -> None:
    turns = range(200)
    log = {"turn": turns, "generator_x_mean": [None if t % 2 else t / 100 for t in turns], "generator_x_std": 0.5}
    assert pixel_statistics(pd.DataFrame(log)) == {"generator_x_mean": pytest.approx(1.49), "generator_x_std": 0.5}
    assert pixel_statistics(pd.DataFrame({"turn": [1], "generator_x_mean": [None]})) == {}


def test_the_standard_deviation_is_that_of_a_sample() -> None:
    assert mean_and_std([1.0, 2.0, 3.0]) == (2.0, 1.0) and mean_and_std([4.0]).std is None
