"""Jobs of Slurm without a cluster: what is refused, and how a job runs its command."""

import argparse
from typing import Any

import pytest

from dmd.errors import UserError
from flows import slurm

DEFAULTS: dict[str, Any] = {
    "time": 60, "more": 2, "gpus": 0, "cpus": 1, "memory": None, "partition": None, "option": [],
    "command": ["flows.distill", "--dry-run"],
}  # fmt: skip


def arguments(**changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**DEFAULTS, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"command": ["http.server"]}, "'http.server' is no command for a job"),
        ({"time": 0}, "--time: 0 is not allowed; it must be 1 or more"),
        ({"more": -1}, "--continue: -1 is not allowed"),
        ({"cpus": 0}, "--cpus: 0 is not allowed"),
        ({"gpus": -1}, "--gpus: -1 is not allowed"),
        ({"memory": float("nan")}, "--memory: nan is not allowed"),
        ({"option": ["=x"]}, "--option: '=x' is no option of sbatch"),
        ({"option": ["qos=a\nrm"]}, "is no option of sbatch"),
    ],
)
def test_a_wrong_argument_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        slurm.check(arguments(**changes))
    assert "\n" not in str(error.value)


def test_a_missing_package_and_a_missing_cluster_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "find_spec", lambda _name: True)
    monkeypatch.setattr(slurm.shutil, "which", lambda _name: None)
    with pytest.raises(UserError, match="sbatch is not on PATH"):
        slurm.check(arguments())
    monkeypatch.setattr(slurm, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install '\.\[slurm\]'"):
        slurm.check(arguments())


def test_the_limits_of_a_job_are_those_of_the_arguments() -> None:
    found = slurm.read_parameters(
        arguments(gpus=2, memory=16.0, partition="long", option=["qos=high", "exclusive", "comment="])
    )
    wanted = {"timeout_min": 60, "cpus_per_task": 1, "gpus_per_node": 2, "mem_gb": 16.0, "slurm_partition": "long"}
    assert wanted.items() <= found.items()
    more = found["slurm_additional_parameters"]
    assert (more["qos"], more["exclusive"], more["comment"]) == ("high", True, "")
    assert {"gpus_per_node", "mem_gb", "slurm_partition"}.isdisjoint(slurm.read_parameters(arguments()))


def test_a_command_that_fails_makes_the_job_fail() -> None:
    slurm.Job(["flows.slurm", "--help"])()
    with pytest.raises(RuntimeError, match=r"flows\.slurm --wrong ended with exit code 2"):
        slurm.Job(["flows.slurm", "--wrong"])()
