"""Every stage runs by its command, with a small teacher on latents."""

import subprocess
import sys
from pathlib import Path

import pytest

from dmd.config import Params
from tests.helpers.projects import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dit", "text_unet"])
def test_the_stages_train_distill_and_evaluate(params: Params, tmp_path: Path, network: str) -> None:
    """The stages run in the order of the pipeline, with reduced parameters."""
    from ruamel.yaml import YAML

    yaml = YAML()
    raw = yaml.load(ROOT / "params.yaml")
    raw["teacher"].update({"network": network, "steps": 20, "batch_size": 16})
    raw["teacher"]["vae"]["steps"] = 20
    raw["guidance"]["scale"] = 1.5
    raw["evaluator"].update({"steps": 20, "classifier_steps": 20})
    raw["baseline"].update({"samples": 50, "draws": 2, "ddim_steps": [2]})
    raw["pairs"].update({"count": 20, "steps": 2})
    raw["train"].update({"generator_turns": 2, "validate_every": 1})
    raw["train"]["warm_start"].update({"turns": 2, "critic_turns": 1})
    yaml.dump(raw, tmp_path / "params.yaml")
    folders = {
        k: f"artifacts/{k}"
        for k in ("data", "teacher", "encoded", "evaluator", "trunk", "baseline", "pairs", "generator")
    }
    stage = {
        "data": {"out": "data"},
        "teacher": {"data": "data", "out": "teacher", "losses": "tl.csv"},
        "evaluator": {"data": "data", "out": "evaluator"},
        "trunk": {"data": "data", "out": "trunk"},
        "encode": {"data": "data", "teacher": "teacher", "out": "encoded"},
        "baseline": {**{k: k for k in ("data", "teacher", "encoded", "evaluator")}, "out": "baseline"},
        "pairs": {**{k: k for k in ("data", "teacher", "encoded")}, "out": "pairs"},
        "train": {
            **{k: k for k in ("data", "teacher", "encoded", "evaluator", "trunk", "pairs")},
            **{"out": "generator", "losses": "losses.csv", "validation": "training"},
        },
        "evaluate": {
            **{k: k for k in ("data", "teacher", "encoded", "evaluator", "baseline", "generator")},
            **{"losses": "losses.csv", "validation": "training", "metrics": "m.json", "details": "d.json"},
            **{"timing": "t.json", "quality": "q.csv", "plots": "plots", "samples": "s.png", "report": "r.html"},
        },
    }
    for name, paths in stage.items():
        words = [w for key, value in paths.items() for w in (f"--{key}", folders.get(value, value))]
        subprocess.run(
            [sys.executable, "-m", f"stages.{name}", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "DMD_SCRATCH": str(tmp_path / "scratch")},
            check=True,
        )
    assert (tmp_path / "r.html").is_file()
