"""The page of an ablation is self-contained and has no empty panel; a line joins rows that differ in one parameter."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from dmd.generator.pictures import png
from flows.ablation.comparison import RowSummary, Values, summarize, write_comparison
from flows.ablation.page import find_sweeps, make_cards, write_page
from flows.ablation.plan import Ablation, Plan, Row, downstream_groups, list_members, load_ablation
from tests.helpers.projects import ROOT


def plan(tmp_path: Path, **changes: Any) -> Plan:
    ablation = Ablation(**{"description": "What <does> what", "seeds": [0, 1], **changes})
    members = list_members("x", ablation, ROOT / "params.yaml", downstream_groups(ROOT), "")
    return Plan("x", ablation, members, YAML(typ="safe").load(ROOT / "params.yaml"), "")


def numbers(value: float) -> Values:
    return {
        "fd_ratio": value,
        "fd_ratio.classifier": value + 0.1,
        "clip_score": 76.3 + value / 100,
        "precision": 0.9,
        "recall": 0.8,
        "generator_x_mean": -0.4,
    }


def rows(plan: Plan, failed: tuple[str, ...] = ()) -> list[RowSummary]:
    """Summaries of the rows, for which the n-th member has FD ratio n / 10 + 0.5."""
    results = {m: None if m.row in failed else numbers(0.5 + i / 10) for i, m in enumerate(plan.members)}
    return summarize(plan.ablation, results)


def test_a_grid_has_a_sweep_for_each_of_its_parameters(tmp_path: Path) -> None:
    grid = plan(tmp_path, grid={"method.critic_turns": [10, 2], "train.batch_size": [32, 64, 128]})
    turns, batch = find_sweeps(grid, rows(grid))
    assert [list(turns.lines), list(batch.lines)] == [
        ["batch_size: 32", "batch_size: 64", "batch_size: 128"],
        ["critic_turns: 10", "critic_turns: 2"],
    ]
    assert [[value for value, _ in line] for line in turns.lines.values()] == [[2, 10]] * 3
    line = batch.lines["critic_turns: 2"]
    assert [(value, row.name) for value, row in line] == [(n, f"critic_turns_2_batch_size_{n}") for n in (32, 64, 128)]


def test_a_parameter_that_a_row_does_not_change_counts_as_a_value(tmp_path: Path) -> None:
    """A line joins rows that differ in one parameter only; the ablation of the papers has three such pairs."""
    ablation = load_ablation(ROOT / "experiments" / "ablations" / "dmd2_paper.yaml")
    grid = plan(tmp_path, **ablation.model_dump())
    joined = {
        s.parameter: [[(value, row.name) for value, row in line] for line in s.lines.values()]
        for s in find_sweeps(grid, rows(grid))
    }
    assert joined == {
        "method.critic_turns": [[(1, "dm_alone"), (5, "two_time_scales")]],
        "method.name": [[("dmd", "regression"), ("dmd2", "gan")]],
        "method.steps": [[(1, "gan"), (4, "four_steps")]],
    }
    assert not find_sweeps(grid, rows(grid, failed=("dm_alone", "gan")))


def test_a_parameter_of_the_base_counts_as_a_value(tmp_path: Path) -> None:
    pair = [Row(name="a", changes={}), Row(name="b", changes={"method.critic_turns": 2})]
    (sweep,) = find_sweeps(*(lambda p: (p, rows(p)))(plan(tmp_path, rows=pair, base={"method.critic_turns": 3})))
    assert [[value for value, _ in line] for line in sweep.lines.values()] == [[2, 3]]
    same = plan(tmp_path, rows=pair, base={"method.critic_turns": 2})
    assert not find_sweeps(same, rows(same))


def html_of(tmp_path: Path, plan: Plan, failed: tuple[str, ...] = ()) -> str:
    summaries = rows(plan, failed)
    write_comparison(tmp_path, plan, summaries)
    first = {m.row: m for m in reversed(plan.members) if m.row not in failed}
    pictures = {m: png(Image.new("RGB", (8, 8))) for m in first.values()}
    reasons = {m: "seven is <not> available" for m in plan.members if m.row in failed}
    return write_page(tmp_path, plan, summaries, pictures, reasons).read_text()


GRID = {"grid": {"method.critic_turns": [1, 2, 20], "method.name": ["dmd", "dmd2"]}}


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    html = html_of(tmp_path, plan(tmp_path, **GRID), ("critic_turns_1_name_dmd",))
    sources = re.findall(r'(?:src|href|action)\s*=\s*"([^"#]+)', html)
    assert len(sources) == 5 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert not re.search(r"<script|@import|url\((?!#)|https?://", html)
    assert "What &lt;does&gt; what" in html and html.count("seven is &lt;not&gt; available") == 2
    assert "0 (missing: 0, 1)" in html and "By method.critic_turns" in html and "By method.name" in html
    assert "critic_turns_20_name_dmd2, seed 0" in html and "seed 1<" not in html.split("Missing")[0]
    assert html.count("<svg") == 8 and "FD ratio, classifier" in html and "pixel mean" in html
    assert html == html_of(tmp_path, plan(tmp_path, **GRID), ("critic_turns_1_name_dmd",))


@pytest.mark.parametrize("failed", [(), ("a", "b")], ids=["one row", "nothing done"])
def test_no_panel_is_empty(tmp_path: Path, failed: tuple[str, ...]) -> None:
    rows = [Row(name="a", changes={}), Row(name="b", changes={"method.critic_turns": 2})]
    html = html_of(tmp_path, plan(tmp_path, rows=rows if failed else rows[:1]), failed)
    assert "<svg" not in html and "By " not in html
    assert ("Missing" in html) == bool(failed) and ("Samples from the same noise" in html) != bool(failed)
    assert not re.search(r"<(section|table|tbody|figure|div)[^>]*>\s*</", html)


def test_the_cards_name_the_best_row_and_count_the_results(tmp_path: Path) -> None:
    grid = plan(tmp_path, rows=[Row(name="a", changes={}), Row(name="b", changes={"method.critic_turns": 2})])
    best, count = make_cards(rows(grid), 4, 0)
    assert (best.value, best.tone, best.text[:3]) == ("0.550", "good", "a: ")
    assert (count.value, count.tone) == ("4 of 4", "good")
    best, count = make_cards(rows(grid, failed=("a",)), 4, 2)
    assert best.text[:3] == "b: " and (count.value, count.tone) == ("2 of 4", "bad")
    assert len(make_cards(rows(grid, failed=("a", "b")), 4, 4)) == 1
