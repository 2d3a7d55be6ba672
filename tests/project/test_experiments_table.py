"""The documented `dvc exp show` is legible in a terminal of 120 columns."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from evaluation.metrics.files import write_metrics
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, run_metrics

COMMAND = re.compile(r"^dvc exp show (.*)$", re.MULTILINE)
GRAPH = "params: [params.yaml]\nmetrics: [reports/metrics.json, reports/details.json, reports/timing.json]\n"


def call(folder: Path, *words: str) -> str:
    env = {**os.environ, "COLUMNS": "120", "DVC_NO_ANALYTICS": "1"}
    env |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout.strip()


def write_results(folder: Path, number: int) -> None:
    """Write measures that all depend on the number."""
    fd = {"classifier": 1.0 + number, "evaluator": 2.0 + number}
    metrics = run_metrics(generator_measures(fd, kid=dict(fd)), {k: v / 4 for k, v in fd.items()})
    write_metrics(metrics, folder / "reports/metrics.json", folder / "reports/details.json")


def test_the_documented_table_fits_120_columns(tmp_path: Path) -> None:
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copy(ROOT / "reports/timing.json", tmp_path / "reports")
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    write_results(tmp_path, 0)
    for words in ("git init -q -b main", f"{sys.executable} -m dvc init -q", "git add -A", "git commit -qm first"):
        call(tmp_path, *words.split())
    head = call(tmp_path, "git", "rev-parse", "HEAD")
    for number in (1, 2):  # experiments as DVC keeps them: commits that only a reference names
        set_params(tmp_path / "params.yaml", {"method.critic_turns": number})
        write_results(tmp_path, number)
        commit = call(tmp_path, "git", "stash", "create")
        name = f"dmd2_paper-row-seed{number}-0123a{number}"
        call(tmp_path, "git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", commit)
        call(tmp_path, "git", "checkout", "-q", "--", ".")
    options = COMMAND.findall((ROOT / "docs/quickstart.md").read_text())
    assert len(options) == 1
    table = call(tmp_path, "bash", "-c", f"{sys.executable} -m dvc exp show --no-pager {options[0]}")
    assert "\N{HORIZONTAL ELLIPSIS}" not in table and max(map(len, table.splitlines())) <= 120
    head_line = next(line for line in table.splitlines() if "Experiment" in line)
    columns = ["Experiment", "ratio.fd.classifier", "ratio.fd.evaluator", "method.critic_turns"]
    assert head_line.split() == columns
    row = next(line for line in table.splitlines() if "row-seed2" in line)
    assert row.split()[-3:] == ["0.75", "1", "2"]
