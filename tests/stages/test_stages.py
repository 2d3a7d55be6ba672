"""The stages as commands: one clear line and a non-zero exit for every mistake, nothing half written."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmd.storage.checkpoint import scratch_root
from stages.command import FREE_MIB
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.stages import stage

TEACHER = ("--data", "artifacts/data", "--out", "artifacts/teacher", "--losses", "reports/teacher_losses.csv")


def refused(run: tuple[int, str], name: str, *words: str) -> None:
    code, err = run
    errors = [line for line in err.splitlines() if line.startswith(f"error: {name}: ")]
    assert code != 0 and len(errors) == 1 and "Traceback" not in err, err
    for word in words:
        assert word in errors[0], errors[0]


def test_a_misspelt_key_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"method.critic_turn": 5})
    refused(stage("data", "--out", "out"), "data", "method.critic_turn: unknown key", "did you mean 'critic_turns'?")
    assert not (project / "out").exists()


def test_a_negative_batch_size_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.batch_size": -128})
    refused(stage("data", "--out", "out"), "data", "teacher.batch_size: -128 is not allowed", "images per step")


def test_a_teacher_folder_that_does_not_exist_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.source": "folder", "teacher.folder": "no/where"})
    refused(stage("teacher", *TEACHER), "teacher", "'no/where' is not a folder")
    assert not (project / "artifacts/teacher").exists()


def test_a_hub_id_without_network_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hf"))
    set_params(project / "params.yaml", {"teacher.source": "hub", "teacher.hub_id": "owner/no-such-model"})
    run = stage("teacher", *TEACHER)
    refused(run, "teacher", "owner/no-such-model", "could not be fetched", "source: folder")
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]


def test_a_truncated_teacher_is_one_line(project: Path, teacher_folder: Path) -> None:
    shutil.copytree(teacher_folder, project / "mine")
    weights = project / "mine/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    set_params(project / "params.yaml", {"teacher.source": "folder", "teacher.folder": "mine"})
    refused(stage("teacher", *TEACHER), "teacher", "mine could not be loaded")
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]


def test_missing_inputs_are_one_line(project: Path) -> None:
    shutil.rmtree(project / "artifacts/data")
    refused(stage("teacher", *TEACHER), "teacher", "artifacts/data does not exist", "dvc repro")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux")
def test_a_full_disk_is_one_line(project: Path) -> None:
    disk = project / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this sandbox does not allow mounts")
    try:
        refused(stage("data", "--out", "disk/data"), "data", "the disk is full")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_too_little_room_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture
) -> None:
    from stages import command as common

    worked = []
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stages.data", "--out", "out"])
    usage = shutil.disk_usage(project)._replace(free=(FREE_MIB - 1) * 2**20)
    monkeypatch.setattr(common.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit) as e:
        common.run("data", lambda *a: worked.append(a) or "", inputs=(), outs=("out",))
    assert e.value.code == 1 and not worked and "error: data: the disk is full" in capsys.readouterr().err


def test_a_full_disk_while_writing_is_one_line_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture
) -> None:
    from dmd.preparation import shards as preparation
    from stages import command as common
    from stages.data import main

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "train.safetensors")

    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stages.data", "--out", "out"])
    monkeypatch.setattr(preparation, "save_file", full)
    with pytest.raises(SystemExit) as e:
        common.run("data", main, inputs=(), outs=("out",))
    assert e.value.code == 1 and "error: data: the disk is full" in capsys.readouterr().err
    assert not [p for p in project.iterdir() if "out" in p.name]


def test_sigterm_leaves_the_checkpoint_and_no_half_written_folder(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.steps": 100_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.teacher", *TEACHER], cwd=project, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DMD_SCRATCH": str(project / "scratch")},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    while not list(project.glob("scratch/teacher-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "error: teacher: interrupted" in err and "Traceback" not in err, err
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]


def test_threads_come_from_params_not_from_the_caller(project: Path) -> None:
    """OMP_NUM_THREADS of a cluster's environment must not change the bits."""
    code = (
        "import torch; from pathlib import Path; from dmd.config import load_params;"
        "from stages.command import prepare_torch;"
        "prepare_torch(load_params(Path('params.yaml')).runtime); print(torch.get_num_threads())"
    )
    set_params(project / "params.yaml", {"runtime.threads": 3})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", code], cwd=project, env=env, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "3"


def test_an_unavailable_device_is_one_line(project: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has what the test asks for")
    set_params(project / "params.yaml", {"runtime.device": "cuda"})
    refused(stage("data", "--out", "out"), "data", "runtime.device: 'cuda' is not available")


def test_a_stage_in_a_copy_that_dvc_deletes_keeps_its_scratch(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = project / ".dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    stage("data", "--out", "out")
    assert scratch_root() == project / "scratch"
    monkeypatch.setenv("DMD_SCRATCH", "")
    stage("data", "--out", "out")
    assert scratch_root() == project / "runs"
