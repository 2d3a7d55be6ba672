"""An ablation: its file, its members, its comparison; and real experiments on a small project of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest
from conftest import ROOT

from dmd.errors import ConfigError
from flows.ablate import _own_groups
from flows.ablation import Ablation, Row, load_ablation, members
from flows.ablation_runs import PARENT
from flows.comparison import compare, spread, table
from flows.store import tracking_uri

DOWNSTREAM = {"method", "train", "evaluate"}


def metrics(ratio: float) -> dict:
    student = {
        "nfe": 1,
        "clip_score": 70 + ratio,
        "fd": {"a": 1.0, "b": 3.0},
        "kid": {},
        "precision": {"a": 0.5, "b": 0.7},
    }
    student["recall"] = {"a": 0.9, "b": 0.9}
    return {"student": student, "ratio": {"fd": {"a": ratio, "b": ratio + 1}}}


def ablation(**changes: object) -> Ablation:
    rows = [Row(name="one", changes={}), Row(name="two", changes={"method.critic_turns": 2})]
    return Ablation(**{"description": "d", "seeds": [0, 1], "rows": rows, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("file", sorted((ROOT / "ablations").glob("*.yaml")), ids=lambda f: f.stem)
def test_the_shipped_ablations_fit_params_yaml(file: Path) -> None:
    made = members(file.stem, load_ablation(file), ROOT / "params.yaml", _own_groups(ROOT))
    assert len({m.experiment for m in made}) == len(made)
    assert len({m.upstream for m in made}) == (4 if file.stem == "teachers" else 1)


def test_the_groups_of_train_and_evaluate_are_read_from_the_graph() -> None:
    assert _own_groups(ROOT) == DOWNSTREAM


def test_a_member_is_a_row_with_a_seed_and_its_name_follows_from_its_numbers() -> None:
    made = members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM)
    assert [(m.row, m.seed) for m in made] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    assert made[3].changes == {"method.critic_turns": 2, "train.seed": 1}
    again = members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM)
    other = members("x", ablation(base={"train.batch_size": 32}), ROOT / "params.yaml", DOWNSTREAM)
    assert made == again and not {m.experiment for m in made} & {m.experiment for m in other}


def test_members_share_what_is_upstream_of_their_changes() -> None:
    rows = [Row(name="a", changes={}), Row(name="b", changes={"train.batch_size": 32})]
    rows += [Row(name="c", changes={"teacher.steps": 10})]
    a, b, c = members("x", ablation(rows=rows, seeds=[0]), ROOT / "params.yaml", DOWNSTREAM)
    assert a.upstream == b.upstream != c.upstream


def test_a_grid_has_a_row_for_each_combination() -> None:
    grid = {"method.critic_turns": [1, 5], "method.gan.weight": [0.003]}
    rows = ablation(rows=[], grid=grid).variants()
    assert [r.name for r in rows] == ["critic_turns_1_weight_0_003", "critic_turns_5_weight_0_003"]
    assert rows[1].changes == {"method.critic_turns": 5, "method.gan.weight": 0.003}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("description: d\nseeds: [0]", "list variants under rows"),
        ("description: d\nseeds: []\nrows: [{name: a, changes: {}}]", "seeds"),
        ("description: d\nseeds: [0]\nrows: [{name: a, changes: {}}, {name: a, changes: {}}]", "'a' is there twice"),
        ("description: d\nseeds: [0]\nrows: [{name: a, changes: {}}]\nat_one: 2", "at_one"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_ablation(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method.critic_turn": 2}, "ablation x, row r: method.critic_turn: params.yaml has no such key"),
        ({"critic_turns": 2}, "critic_turns: params.yaml has no such key"),
        ({"method.critic_turns": 0}, "ablation x, row r: method.critic_turns: 0 is not allowed"),
        ({"pairs.count": 0}, "train.warm_start.turns: 1000 needs pairs"),
    ],
)
def test_a_change_that_params_do_not_allow_names_its_row(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        members("x", ablation(rows=[Row(name="r", changes=changes)]), ROOT / "params.yaml", DOWNSTREAM)


def test_rows_have_mean_and_spread_over_seeds() -> None:
    made = members("x", ablation(), ROOT / "params.yaml", DOWNSTREAM)
    results = dict(zip(made, (metrics(1.0), metrics(2.0), metrics(5.0), None), strict=True))
    one, two = compare(ablation(), results)
    assert one["fd_ratio.a"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5)} and one["fd_ratio"]["mean"] == 2.0
    assert one["seeds"] == [0, 1] and one["failed"] == [] and two["seeds"] == [0] and two["failed"] == [1]
    assert one["precision"]["mean"] == pytest.approx(0.6) and one["clip_score"]["mean"] == 71.5
    assert "kid" not in one and two["fd_ratio"] == {"mean": 5.5, "std": 0.0}
    text = table([one, two, {"name": "none", "seeds": []}])
    assert "| one | 2 | 2.000 ± 0.707 | 71.500 ± 0.707 |" in text and "| none | 0 | failed |" in text


def test_the_spread_is_that_of_a_sample() -> None:
    assert spread([1.0, 2.0, 3.0]) == {"mean": 2.0, "std": 1.0} and spread([4.0])["std"] == 0.0


DVC_YAML = """
stages:
  shared:
    cmd: python work.py shared out.txt
    deps: [work.py]
    params: [data]
    outs: [out.txt]
  train:
    cmd: python work.py train reports/metrics.json
    deps: [work.py, out.txt]
    params: [train, method]
    metrics: [reports/metrics.json: {cache: false}]
"""
# The stages leave a line for each time they really run, outside the project: experiments work in copies.
WORK = """
import json, os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(Path("params.yaml"))
log = Path(os.environ["ABLATE_LOG"])
with log.open("a") as f:
    f.write(sys.argv[1] + "\\n")
time.sleep(float(os.environ.get("ABLATE_SLEEP", "0")))
if sys.argv[1] == "train":
    k = params["method"]["critic_turns"]
    if k == 7:
        sys.exit("error: train: seven is not to be had")
    student = {"nfe": 1, "clip_score": 70.0, "fd": {"a": 1.0}, "kid": {}, "precision": {"a": 1.0}, "recall": {"a": 1.0}}
    out = {"student": student, "ratio": {"fd": {"a": k + params["train"]["seed"]}}}
else:
    out = {}
Path(sys.argv[2]).parent.mkdir(exist_ok=True)
Path(sys.argv[2]).write_text(json.dumps(out))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git and DVC project of two quick stages with this project's params.yaml."""
    root = tmp_path / "project"
    (root / "ablations").mkdir(parents=True)
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    (root / "zoo").mkdir()
    (root / "zoo" / "none").write_text("")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "work.py").write_text(WORK)
    rows = "".join(f"  - {{name: k{k}, changes: {{method.critic_turns: {k}}}}}\n" for k in (1, 2, 7))
    (root / "ablations" / "k.yaml").write_text(f"description: turns\nseeds: [0, 1]\nat_once: 2\nrows:\n{rows}")
    (root / ".gitignore").write_text("runs/\n")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "p"]):
        subprocess.run(command, cwd=root, check=True, env=environment(tmp_path))
    return root


def environment(tmp_path: Path) -> dict[str, str]:
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **identity, "PATH": path, "ABLATE_LOG": str(tmp_path / "log"), "PYTHONPATH": str(ROOT)}


def ablate(project: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.ablate", "ablations/k.yaml"]
    return subprocess.run(command, cwd=project, env=environment(tmp_path), capture_output=True, text=True, check=False)


def runs(project: Path) -> tuple[int, int]:
    """Finished parents, and finished runs under the parent; none is left running."""
    client = mlflow.MlflowClient(tracking_uri(project))
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "onestep"]
    found = client.search_runs([experiment])
    assert {r.info.status for r in found} == {"FINISHED"}
    children = [r for r in found if PARENT in r.data.tags]
    (parent,) = [r for r in found if PARENT not in r.data.tags]
    assert {r.data.tags[PARENT] for r in children} == {parent.info.run_id}
    assert all(r.data.params["train.seed"] in ("0", "1") and "ratio.fd.a" in r.data.metrics for r in children)
    return 1, len(children)


@pytest.mark.slow
def test_members_run_as_experiments_share_stages_and_are_not_repeated(project: Path, tmp_path: Path) -> None:
    done = ablate(project, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr  # the row that fails is shown, and does not stop the others
    assert "failed: error: train: seven is not to be had" in done.stderr
    result = json.loads((project / "reports/ablations/k.json").read_text())
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["k1"]["fd_ratio"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5)} and rows["k2"]["seeds"] == [0, 1]
    assert rows["k7"]["failed"] == [0, 1]
    log = tmp_path / "log"
    assert log.read_text().split().count("shared") == 1
    assert runs(project) == (1, 4)
    names = subprocess.run(
        ["dvc", "exp", "list", "--name-only"],
        cwd=project,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert len([n for n in names.split() if n.startswith("k-")]) == 4
    log.write_text("")
    again = ablate(project, tmp_path)
    assert runs(project) == (1, 4)
    assert again.stderr.count("already there") == 4 and log.read_text().split() == ["train", "train"]
    (project / "work.py").write_text(WORK + "\n# changed\n")
    dirty = ablate(project, tmp_path)
    assert dirty.returncode == 1 and "commit your changes first" in dirty.stderr


@pytest.mark.slow
def test_a_killed_ablation_goes_on_where_it_was(project: Path, tmp_path: Path) -> None:
    env = {**environment(tmp_path), "ABLATE_SLEEP": "4"}
    command = [sys.executable, "-m", "flows.ablate", "ablations/k.yaml"]
    process = subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "FD ratio" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    time.sleep(1)
    listed = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout.split()
    assert not listed, listed
    again = ablate(project, tmp_path)
    assert "already there" in again.stderr
    rows = json.loads((project / "reports/ablations/k.json").read_text())["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1], []]
