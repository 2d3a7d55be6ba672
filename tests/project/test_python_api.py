"""docs/python_api.md and its notebook: the code is short, the two are equal, and the notebook runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.notebook import NOTEBOOK, PAGE, make_notebook
from tests.helpers.docs import blocks
from tests.helpers.projects import ROOT, environment

# Runs the code cells of a notebook in one namespace, as a kernel does. The cells are plain Python, so a Jupyter kernel,
# with twenty packages for it, would test Jupyter more than the code.
RUN_CELLS = """
import json, sys
names = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
from evaluation.judging import judge
import torch
noise = torch.randint(256, names["images"].shape, dtype=torch.uint8)
of_noise = judge(noise, names["reference"], "zoo/fashion_mnist/evaluator")["fd"]
fd = [names["figures"]["fd"]["evaluator"], of_noise["evaluator"]]
print(json.dumps({"turns": [row["turn"] for row in names["rows"]], "fd": fd, "images": list(names["images"].shape)}))
"""


def test_the_notebook_is_that_of_the_page() -> None:
    assert json.loads(NOTEBOOK.read_text()) == make_notebook(PAGE.read_text())
    code = ["".join(c["source"]) for c in make_notebook(PAGE.read_text())["cells"] if c["cell_type"] == "code"]
    page = [b.body.strip("\n") for b in blocks() if b.page == "docs/python_api.md" and b.language == "python"]
    assert code[1:] == page and len(page) >= 5


def test_load_train_sample_and_judge_take_less_than_thirty_lines() -> None:
    page = [b.body for b in blocks() if b.page == "docs/python_api.md" and b.language == "python"]
    lines = [line for body in page for line in body.splitlines() if line.strip()]
    assert len(lines) < 30 and not any("Pairs(" in line or "TrainingImages(" in line for line in lines)


@pytest.mark.slow
def test_the_notebook_runs_in_a_fresh_process(tmp_path: Path) -> None:
    """It runs in the folder of the notebook, as Jupyter starts it."""
    argv = [sys.executable, "-c", RUN_CELLS, str(NOTEBOOK)]
    done = subprocess.run(argv, cwd=ROOT / "docs", env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["turns"] == [*range(1, 51)] and result["images"] == [200, 1, 28, 28]
    generated, noise = result["fd"]
    assert 0 < generated < noise
