"""The page, its table and its pictures are complete and self-contained; equal inputs give equal bytes."""

import copy
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dmd.generator.pictures import GAP, comparison, image_grid
from evaluation.metrics.measures import MEASURES
from evaluation.metrics.schema import Metrics, TrainingCost
from evaluation.report.caption import describe_table, describe_training
from evaluation.report.cards import cost_card, ratio_card
from evaluation.report.charts import thin
from evaluation.report.judges import headline_columns, headline_groups, measure_groups
from evaluation.report.lineage import add_lineage
from evaluation.report.page import ReportInputs, render_report
from evaluation.report.quality import quality_figures, quality_table
from evaluation.report.table import format_cells, format_table, summary_table
from evaluation.report.training import group_columns
from evaluation.statistics.intervals import Interval
from evaluation.timing.schema import Timing
from tests.helpers.reports import NAMES, measures


class Page(HTMLParser):
    """Parser of a page that records the tags with their attributes, and the tags that are still open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_self_contained(html: str) -> None:
    page = Page(html)
    assert page.open == []
    references = [a[k] or "" for _, a in page.tags for k in ("src", "href", "xlink:href", "srcset", "data") if k in a]
    assert references and all(r.startswith(("data:image/png;base64,", "#")) for r in references)
    assert all(u.startswith("#") for u in re.findall(r"url\(\s*['\"]?([^)]*)", html))
    assert not {"script", "link", "iframe", "base", "form"} & {tag for tag, _ in page.tags}
    assert "://" not in html and "@import" not in html
    assert len(html) < 500_000


def test_page_shows_all_inputs(inputs: ReportInputs, html: str) -> None:
    for group in (*headline_groups(inputs.metrics, inputs.timing), *measure_groups(inputs.metrics)):
        assert f">{group.title}</th>" in html
        for name, row in group.rows:
            assert f'<th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in row) in html
    assert "A &lt;title&gt;" in html and "make demo &amp;&amp; echo &lt;done&gt;" in html
    assert "<h3>unheard_of</h3>" in html and "blank" not in html
    images = [a["alt"] for tag, a in Page(html).tags if tag == "img"]
    assert images == ["side by side", "after 100 generator turns", "turn 200", "turn 1,000"]
    plots = [a["aria-label"] for tag, a in Page(html).tags if tag == "svg"]
    assert len(plots) == 2 * len(NAMES) + 4 and all(plots)
    assert render_report(inputs) == html


def test_pictures_of_a_long_training_are_evenly_spaced_from_first_to_last(inputs: ReportInputs) -> None:
    turns = range(50, 2151, 50)
    pictures = {f"after {turn} generator turns": inputs.pictures["turn 200"] for turn in turns}
    html = render_report(replace(inputs, pictures=pictures))
    selection = [int(a["alt"].split()[1]) for tag, a in Page(html).tags if tag == "img"]
    assert (len(selection), selection[0], selection[-1]) == (12, 50, 2150)
    assert {b - a for a, b in pairwise(selection)} <= {150, 200}


def test_a_panel_without_data_is_left_out(inputs: ReportInputs) -> None:
    metrics = copy.deepcopy(inputs.metrics)
    metrics.student = metrics.student.model_copy(update={"clip_score": None})
    bare = ReportInputs(metrics, None, pd.DataFrame(), {}, {}, inputs.subject, title="bare")
    html = render_report(bare)
    for heading in ("Samples", "Training", "Sources of the figures", "Lineage"):
        assert f"<h2>{heading}" not in html
    assert html.count("<svg") == len(NAMES) and "as fast as" not in html and "seconds per image" not in html
    assert "of the CLIP score" not in html


def test_page_explains_its_intervals_and_names_reused_figures(inputs: ReportInputs, html: str) -> None:
    assert "the mean over 4 replicates of 1,797 images" in html and "jackknife" not in html
    assert "come from an earlier run" not in html
    metrics = copy.deepcopy(inputs.metrics)
    metrics.student.replicates, metrics.taken_over = 1, ["ddim_50", "heun_10"]
    single = render_report(replace(inputs, metrics=metrics))
    assert (
        "from a single replicate of 1,797 images; ± is half of the 95 % interval by a jackknife of 10 groups" in single
    )
    assert "the mean over" not in single.partition("Class by class")[0]
    assert "figures by DDIM 50, Heun 10 come from an earlier run" in single


def test_each_kind_of_sampler_has_a_curve_of_its_own(metrics: Metrics, timing: Timing) -> None:
    """Points of DDIM and of Heun's method alternate along the axis, so one curve would zigzag."""
    alone = quality_figures(metrics, timing)[0].svg
    assert ">teacher</text>" in alone and "teacher DDIM" not in alone
    heun = {f"heun_{n}": measures(2 * n - 1, 0.5, 0.05) for n in (10, 25)}
    both = quality_figures(metrics.model_copy(update={"teachers": metrics.teachers | heun}), timing)[0].svg
    assert ">teacher DDIM</text>" in both and ">teacher Heun</text>" in both and ">teacher</text>" not in both
    lines = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--series-[14]\); stroke-width: 1.6', both)
    assert sorted(d.count("L") for d in lines)[-2:] == [1, 3]


def test_lineage_is_escaped_and_replaced(html: str) -> None:
    once = add_lineage(html, {"model": "<b>digits</b> v1", "git sha": r"\1 & <!-- lineage -->"})
    assert "<td>&lt;b&gt;digits&lt;/b&gt; v1</td>" in once and r"<td>\1 &amp; &lt;!-- lineage --&gt;</td>" in once
    twice = add_lineage(once, {"model": "v2"})
    assert twice.count("<h2>Lineage") == 1 and "v1" not in twice and "<td>v2</td>" in twice
    with pytest.raises(ValueError, match="lineage"):
        add_lineage(html.replace("<!-- lineage -->", ""), {"model": "v1"})


def test_headline_claims_no_more_than_the_intervals_show(metrics: Metrics) -> None:
    metrics = copy.deepcopy(metrics)
    assert ratio_card(metrics, "clip").tone == "bad" and ratio_card(metrics, "clip").value == "1.20"
    metrics.ratio.interval["clip"] = Interval(low=0.97, high=1.4)
    assert ratio_card(metrics, "clip").tone == "even"
    assert ratio_card(metrics, "clip").text.startswith("No significant difference: the interval contains 1.")
    metrics.student = measures(1, 0.5, 0.04)
    metrics.ratio.fd["clip"] = 0.5 / 0.7
    metrics.ratio.interval["clip"] = Interval(low=0.6, high=0.8)
    assert ratio_card(metrics, "clip").tone == "good" and "by 29 %" in ratio_card(metrics, "clip").text


def test_the_table_holds_the_numbers_of_metrics_and_timing(metrics: Metrics, timing: Timing) -> None:
    table = summary_table(metrics, timing)
    assert list(table.index) == ["real held-out", *(f"teacher DDIM {n}" for n in (10, 25, 50, 100)), "student"]
    assert table["NFE"].dropna().tolist() == [10, 25, 50, 100, 1]
    for name in NAMES:
        for row, key in (("teacher DDIM 10", "ddim_10"), ("teacher DDIM 100", "ddim_100")):
            assert table.loc[row, f"FD {name}"] == metrics.teachers[key].values("fd")[name]
            assert table.loc[row, "seconds per image"] == timing.teachers[key].seconds_per_image
        assert table.loc["real held-out", f"matched FD {name}"] == metrics.real.values("fd_matched")[name]
        assert table.loc["student", f"± FD {name}"] == pytest.approx(0.04)
        assert table.loc["student", f"precision {name}"] == 0.81 and table.loc["student", f"recall {name}"] == 0.72
    assert format_cells(table).loc["student", "KID clip"] == "0.0123 ± 0.0010"
    assert table.loc["real held-out", "CLIP score"] == 31.0 and table.loc["student", "CLIP score"] == 30.84
    assert table.loc[["real held-out"], ["± FD clip", "seconds per image"]].isna().all(axis=None)


def test_held_out_images_are_compared_by_no_measure_that_depends_on_their_number(
    inputs: ReportInputs, html: str
) -> None:
    """300 held-out images against 1,797 generated ones: a distance of the former is no floor of the latter's."""
    columns = [f"{label} clip" for label in ("FD", "recall", "coverage")]
    table = summary_table(inputs.metrics, None)
    assert table.loc[["real held-out"], columns].isna().all(axis=None)
    assert table.loc["real held-out", ["matched FD clip", "precision clip", "accuracy"]].notna().all()
    row = quality_table(inputs.metrics).set_index("kind").loc["real"]
    assert pd.isna(row["fd_clip"]) and row["precision_clip"] == 0.9
    assert "matched FD is that\nof 300 images in every row" in html
    assert ">real held-out images</text>" not in html
    equal = inputs.metrics.model_copy(update={"real": inputs.metrics.real.model_copy(update={"samples": 1797})})
    assert summary_table(equal, None).loc["real held-out", "FD clip"] == 0.31
    same = render_report(replace(inputs, metrics=equal))
    assert ">real held-out images</text>" in same and "measures that depend on the number" not in same


def test_the_page_says_what_its_table_is_of_without_commit_and_date(inputs: ReportInputs, html: str) -> None:
    """The page is an output of a stage, and equal runs give equal pages."""
    assert "Data: digits. Method: dmd. Training cost: generator turns: 700. Judges: clip, classifier." in html
    assert "4 x 1,797 images, against 1,347 training images. Lower is better: FD, " in html
    assert "Commit" not in html and "Lower, down to 0 is better: KID." in html
    phases = pd.DataFrame({"turn": [1, 2, 3], "step": [1, 2, 7], "phase": ["warm_start", "warm_start", "distill"]})
    assert describe_training(phases) == "generator turns: 2 (warm_start), 1 (distill); steps: 7"
    subject = replace(inputs.subject, commit="abc", date="2026-01-02")
    assert describe_table(subject, inputs.metrics, phases, []).endswith(" Commit abc, 2026-01-02.")


def test_the_table_for_a_terminal_is_aligned_and_fits_120_columns(metrics: Metrics, timing: Timing) -> None:
    lines = format_table(summary_table(metrics, timing)).splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[-1].split()[:5] == ["student", "1", "0.840", "±", "0.040"]
    assert len({line.rstrip().rfind("0.810") for line in lines[4:]}) == 1
    assert "seconds" not in format_table(summary_table(metrics, None))


def test_the_headline_table_has_a_group_for_each_judge_and_few_columns(metrics: Metrics, timing: Timing) -> None:
    assert headline_columns() == ["NFE", "FD ↓", "precision ↑", "recall ↑", "ms ↓"]
    metrics = copy.deepcopy(metrics)
    metrics.ratio.selects, metrics.ratio.seen = ["clip"], {"classifier": "why"}
    groups = headline_groups(metrics, timing)
    assert [g.title for g in groups] == ["clip (selects)", "classifier (seen in training)"]
    names = ["real held-out", *(f"DDIM {n}" for n in (10, 25, 50, 100)), "student"]
    assert all([name for name, _ in g.rows] == names for g in groups)
    assert groups[0].rows[-1] == ("student", ["1", "0.840 ± 0.040", "0.810", "0.720", "0.5"])
    assert groups[1].rows[2] == ("DDIM 25", ["25", "3.400 ± 0.050", "0.810", "0.720", "12.5"])
    assert groups[0].rows[0][1] == ["", "", "0.900", "", ""]  # FD and recall depend on the number of images
    assert [row[-1] for _, row in headline_groups(metrics, None)[0].rows] == [""] * 6


def test_every_measure_stands_beside_the_best_sampler_of_its_judge(metrics: Metrics) -> None:
    *judges, last = measure_groups(metrics)
    assert [g.title for g in judges] == ["clip; teacher: DDIM 100", "classifier; teacher: DDIM 100"]
    rows = dict(judges[0].rows)
    assert rows["FD ↓"] == ["0.840 ± 0.040", "0.700 ± 0.050", ""] and rows["density ↑"] == ["0.930", "0.930", "0.900"]
    assert len(rows) == len([m for m in MEASURES.values() if m.per_extractor])
    names = ["CLIP score ↑", "PickScore ↑", "HPS v2.1 ↑", "ImageReward ↑", "VQA ↑", "accuracy ↑"]
    assert [name for name, _ in last.rows] == names


def test_every_axis_has_a_quantity_and_a_direction_or_unit(html: str) -> None:
    charts = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(charts) == 2 * len(NAMES) + 4
    for chart in charts:
        text = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", chart, re.DOTALL))
        assert "(count)" in text or "is faster)" in text, text
        assert "lower is better)" in text or "no direction" in text or "(see the title)" in text, text


def test_the_training_cost_stands_beside_the_quality(metrics: Metrics) -> None:
    assert cost_card(metrics) is None
    metrics = metrics.model_copy(
        update={"training": TrainingCost(turns=2150, images=284800, images_of={"critic": 64000})}
    )
    card = cost_card(metrics)
    assert (
        card is not None
        and card.value == "284,800"
        and card.text == ("In 2,150 turns of the generator. Images of critic 64,000.")
    )


def test_every_column_is_in_one_plot() -> None:
    names = ["generator_dm", "critic_total", "critic_grad_norm", "generator_x_std", "lr_critic", "odd"]
    names += ["validation_score", "validation_fd_infinity_classifier"]
    frame = pd.DataFrame({c: [float(i), i + 1.0, np.nan] for i, c in enumerate(names)})
    hidden = {"turn": [1, 2, 3], "step": [5, 10, 15], "generator_total": frame["generator_dm"], "still": 7.0}
    hidden |= {"blank": [np.nan, np.inf, np.nan], "validation_error": [0.1, 0.2, 0.3], "validation_kept": [1, 0, 1]}
    groups = group_columns(frame.assign(**hidden))
    assert sorted(c for group in groups.values() for c in group) == sorted(names)
    assert groups["Losses"] == ["generator_dm", "critic_total"] and groups["odd"] == ["odd"]
    assert groups["Distance to the validation split"] == names[-2:]


def test_thinned_curve_keeps_mean_and_extremes() -> None:
    value = np.random.default_rng(0).random(700)
    x, mean, low, high = thin(np.arange(700.0), value)
    assert len(x) == 150 and (np.diff(x) > 0).all()
    assert low.min() == value.min() and high.max() == value.max()
    assert mean.mean() == pytest.approx(value.mean(), abs=0.01)
    assert (thin(np.arange(5.0), value[:5])[1] == value[:5]).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_has_every_pixel_in_its_cell(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, channels, 8, 8), np.uint8)
    sheet = np.asarray(image_grid(images))
    size = (sheet.shape[1] + GAP) // 3 - GAP
    assert size >= 32 and size % 8 == 0
    for r, c in np.ndindex(2, 3):
        y, x = r * (size + GAP), c * (size + GAP)
        cell = sheet[y : y + size, x : x + size]
        expected = np.broadcast_to(images[r, c], (3, 8, 8)).transpose(1, 2, 0)
        assert (cell.reshape(8, size // 8, 8, size // 8, 3) == expected[:, None, :, None]).all()


def test_comparison_puts_each_class_on_a_line_of_its_own() -> None:
    """Three classes of two images, each of one colour (text is grey), go from left to right through two panels."""
    images = np.zeros((12, 3, 8, 8), np.uint8)
    images[:, 0] = np.arange(1, 13, dtype=np.uint8)[:, None, None]
    panels, names = {"real": images[:6], "student": images[6:]}, ["a", "bb", "ccc"]
    picture = comparison(panels, names, 2)
    assert picture == comparison(panels, names, 2)
    sheet = np.asarray(Image.open(io.BytesIO(picture)))
    corner = {n: np.argwhere((sheet == (n, 0, 0)).all(axis=-1)).min(axis=0) for n in range(1, 13)}
    lines = [{int(corner[n][0]) for n in (i, i + 1, i + 6, i + 7)} for i in (1, 3, 5)]
    assert [len(line) for line in lines] == [1, 1, 1]
    tops = [line.pop() for line in lines]
    assert tops == sorted(set(tops))
    for first in (1, 3, 5):
        lefts = [int(corner[n][1]) for n in (first, first + 1, first + 6, first + 7)]
        assert lefts == sorted(set(lefts))


def test_pictures_refuse_images_of_a_wrong_number_type_or_channel_count() -> None:
    with pytest.raises(ValueError, match="expected 2 classes of 3 images, got 5 images"):
        comparison({"real": np.zeros((5, 1, 8, 8), np.uint8)}, ["a", "b"], 3)
    with pytest.raises(ValueError, match="uint8"):
        image_grid(np.zeros((1, 1, 1, 8, 8), np.float32))
    with pytest.raises(ValueError, match="channels"):
        image_grid(np.zeros((1, 1, 4, 8, 8), np.uint8))
