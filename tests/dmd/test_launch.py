"""Stage `train` starts its processes by an argument list, and no parameter can turn it into another program."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dmd.config import validate
from dmd.errors import ConfigError
from dmd.launch import LAUNCHED, OPTIONS, launch_command
from tests.helpers.projects import ROOT, environment


def params_with(**train: Any) -> dict[str, Any]:
    raw = YAML(typ="safe").load(ROOT / "params.yaml")
    raw["train"].update(train)
    return raw


def test_each_launcher_has_its_own_argument_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert launch_command("python", 1, {}, "stages.train", ["--out", "a b"]) is None
    options = {"num_machines": 2, "same_network": True}
    assert launch_command("accelerate", 8, options, "stages.train", ["--out", "a b"]) == [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes=8"),
        *("--same_network", "--num_machines=2", "-m", "stages.train", "--out", "a b"),
    ]
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert "--main_process_ip=node1" in (launch_command("accelerate", 8, options, "stages.train", []) or [])
    monkeypatch.delenv("MASTER_ADDR")
    assert launch_command("torchrun", 2, {"master_port": 29501, "standalone": False}, "stages.train", []) == [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29501"),
        *("-m", "stages.train"),
    ]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"launcher": "touch X; python -m"}, "train.launcher: a command is no longer used; write launcher: python"),
        ({"launcher": "accelerate launch --num_processes 8 -m"}, "train.launcher: a command is no longer used"),
        ({"launcher": "sh"}, "train.launcher: 'sh' is not allowed"),
        ({"processes": 2}, "train.processes: 2 processes need launcher: accelerate or torchrun"),
        ({"launcher": "torchrun", "processes": 0}, "train.processes: 0 is not allowed"),
        ({"launcher_options": {"num_machines": 2}}, "'num_machines' is no option for launcher: python; allowed: none"),
        ({"launcher": "torchrun", "launcher_options": {"no_python": True}}, "'no_python' is no option for launcher"),
        ({"launcher": "accelerate", "launcher_options": {"config_file": "x.yaml"}}, "'config_file' is no option"),
        ({"launcher": "accelerate", "launcher_options": {"m evil": True}}, "'m evil' is no option"),
        (
            {"launcher": "torchrun", "launcher_options": {"rdzv_endpoint": "evil.example:1"}},
            "'rdzv_endpoint' is no opt",
        ),
        (
            {"launcher": "accelerate", "launcher_options": {"main_process_ip": "evil.example"}},
            "'main_process_ip' is no",
        ),
        ({"launcher": "torchrun", "launcher_options": {"nnodes": "x; touch y"}}, "nnodes: 'x; touch y' is not allowed"),
        (
            {"launcher": "torchrun", "launcher_options": {"nnodes": "--no-python"}},
            "nnodes: '--no-python' is not allowed",
        ),
        (
            {"launcher": "torchrun", "launcher_options": {"nnodes": ["a"]}},
            "train.launcher_options: ['a'] is not allowed",
        ),
    ],
)
def test_a_launcher_that_could_run_another_program_is_refused(train: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as e:
        validate(params_with(**train), "params.yaml")
    assert words in str(e.value)


@pytest.mark.parametrize("launcher", ["accelerate", "torchrun"])
def test_every_option_of_the_table_exists(launcher: str) -> None:
    module = launch_command(launcher, 1, {}, "stages.train", [])[2]  # type: ignore[arg-type, index]
    done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True)
    assert not [name for name in OPTIONS[launcher] if f"--{name}" not in done.stdout]


PROGRAM = """
import os, sys
from dmd.launch import start_processes
start_processes("torchrun", 2, {}, "program")
line = " ".join(["rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], *sys.argv[1:]])
os.write(1, f"{line}\\n".encode())  # in one piece, beside the other process
"""


def test_the_processes_run_the_command_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    env = {**environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "program", "--out", "$(touch here); b"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    lines = sorted(done.stdout.splitlines())
    assert lines == [f"rank {rank} of 2 --out $(touch here); b" for rank in (0, 1)]
    assert not (tmp_path / "here").exists()


def test_a_process_of_a_launcher_starts_no_further_ones(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    env = {**environment(), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "RANK": "0", "WORLD_SIZE": "1"}
    for variable in (LAUNCHED, "LOCAL_RANK"):
        done = subprocess.run(
            [sys.executable, "-m", "program"], cwd=tmp_path, env={**env, variable: "0"}, capture_output=True, text=True
        )
        assert done.stdout == "rank 0 of 1\n"
