"""A stage that fails prints one line, exits with a non-zero code and leaves no partial output."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dmd.errors import ConfigError
from dmd.storage.scratch import scratch_root
from stages.command import FREE_MIB
from tests.helpers.params import set_params
from tests.helpers.projects import ROOT
from tests.helpers.stages import PATHS, arguments, stage

TEACHER = ("--data", "artifacts/data", "--out", "artifacts/teacher", "--losses", "reports/teacher_losses.csv")


def check_error(run: tuple[int, str], name: str, *words: str) -> None:
    """Check that a stage failed with a single error line that contains the words."""
    code, err = run
    errors = [line for line in err.splitlines() if line.startswith(f"error: {name}: ")]
    assert code != 0 and len(errors) == 1 and "Traceback" not in err, err
    for word in words:
        assert word in errors[0], errors[0]


def test_a_misspelt_key_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"method.critic_turn": 5})
    check_error(
        stage("data", "--out", "out"), "data", "method.critic_turn: unknown key", "did you mean 'critic_turns'?"
    )
    assert not (project / "out").exists()


def test_a_negative_batch_size_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.batch_size": -128})
    check_error(stage("data", "--out", "out"), "data", "teacher.batch_size: -128 is not allowed", "images per step")


def test_a_teacher_folder_that_does_not_exist_is_one_line(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.source": "folder", "teacher.folder": "no/where"})
    check_error(stage("teacher", *TEACHER), "teacher", "'no/where' is not a folder")
    assert not (project / "artifacts/teacher").exists()


def test_a_hub_id_without_network_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(project / "hf"))
    set_params(project / "params.yaml", {"teacher.source": "hub", "teacher.hub_id": "owner/no-such-model"})
    run = stage("teacher", *TEACHER)
    check_error(run, "teacher", "owner/no-such-model", "could not be fetched", "source: folder")
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]


def test_a_truncated_teacher_is_one_line(project: Path, teacher_folder: Path) -> None:
    shutil.copytree(teacher_folder, project / "mine")
    weights = project / "mine/unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    set_params(project / "params.yaml", {"teacher.source": "folder", "teacher.folder": "mine"})
    check_error(stage("teacher", *TEACHER), "teacher", "mine/unet could not be loaded")
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]


def test_missing_inputs_are_one_line(project: Path) -> None:
    shutil.rmtree(project / "artifacts/data")
    check_error(stage("teacher", *TEACHER), "teacher", "artifacts/data does not exist", "dvc repro")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux")
def test_a_full_disk_is_one_line(project: Path) -> None:
    disk = project / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("this sandbox does not allow mounts")
    try:
        check_error(stage("data", "--out", "disk/data"), "data", "the disk is full")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_lack_of_disk_space_is_an_error_before_any_work(
    monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture
) -> None:
    from stages import command as common

    calls = []
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stages.data", "--out", "out"])
    usage = shutil.disk_usage(project)._replace(free=(FREE_MIB - 1) * 2**20)
    monkeypatch.setattr(common.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SystemExit) as e:
        common.run("data", lambda *a: calls.append(a) or "", inputs=(), outs=("out",))
    assert e.value.code == 1 and not calls and "error: data: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["shards.save_file", "prepare.write_text"])  # in the scratch; in the output
def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(
    place: str, monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture
) -> None:
    from stages import command as common
    from stages.data import main

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "train.safetensors")

    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["stages.data", "--out", "out"])
    monkeypatch.setattr(f"dmd.preparation.{place}", full)
    with pytest.raises(SystemExit) as e:
        common.run("data", main, inputs=(), outs=("out",))
    assert e.value.code == 1 and "error: data: the disk is full" in capsys.readouterr().err
    assert not [p for p in project.iterdir() if "out" in p.name]


@pytest.mark.slow
def test_sigterm_leaves_the_checkpoint_and_no_partial_folder(project: Path) -> None:
    set_params(project / "params.yaml", {"teacher.steps": 100_000})
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.teacher", *TEACHER], cwd=project, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DMD_SCRATCH": str(project / "scratch")},
    )  # fmt: skip
    deadline = time.monotonic() + 90
    assert process.stderr is not None
    while "steps" not in process.stderr.readline() and time.monotonic() < deadline:
        pass
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "error: teacher: stopped by SIGTERM" in err and "Traceback" not in err, err
    assert sorted(p.name for p in (project / "artifacts").iterdir()) == ["data"]
    assert list(project.glob("scratch/teacher-*/state-000001.pt"))


@pytest.mark.slow
def test_threads_come_from_params_and_not_from_the_environment(project: Path) -> None:
    """OMP_NUM_THREADS must not change the results. Algorithms are deterministic, and no compiler is imported for it."""
    code = (
        "import sys, torch; from pathlib import Path; from dmd.config import load_params;"
        "from stages.command import prepare_torch; params = load_params(Path('params.yaml'));"
        "prepare_torch(params.runtime, params.data); print(torch.get_num_threads(), "
        "torch.get_deterministic_debug_mode(), torch.is_deterministic_algorithms_warn_only_enabled(), "
        "'torch._dynamo' in sys.modules)"
    )
    set_params(project / "params.yaml", {"runtime.threads": 3})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", code], cwd=project, env=env, capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["3", "1", "True", "False"]


def test_a_stage_may_have_threads_of_its_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage train also hands them to the processes that it starts, where accelerate sets another number."""
    set_params(project / "params.yaml", {"runtime.threads": 3, "teacher.threads": 5, "train.threads": 7})
    used = list[int]()
    monkeypatch.setattr("torch.set_num_threads", used.append)

    def end(*_: object) -> None:
        raise ConfigError("far enough")

    monkeypatch.setattr("dmd.teacher_training.run.train_to_folder", end)
    monkeypatch.setattr("dmd.distillation.parallel.workers.Accelerator", lambda **_: None)
    monkeypatch.setattr("dmd.encoding.encoded.load_encoded", end)
    for name in ("teacher", "encoded", "evaluator", "trunk", "pairs"):
        (project / "artifacts" / name).mkdir()
    stage("data", "--out", "out")
    stage("teacher", *TEACHER)
    stage("train", *arguments(*PATHS), "--out", "out", "--losses", "losses.csv", "--validation", "validation")
    assert used == [3, 5, 7, 7]


def test_an_unavailable_device_is_one_line(project: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    set_params(project / "params.yaml", {"runtime.device": "cuda"})
    check_error(stage("data", "--out", "out"), "data", "runtime.device: 'cuda' is not available")


def test_scratch_of_a_temporary_copy_lies_in_the_main_worktree(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = project / ".dvc/tmp/exps/standalone/tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    stage("data", "--out", "out")
    assert scratch_root() == project / "scratch"
    monkeypatch.setenv("DMD_SCRATCH", "")
    stage("data", "--out", "out")
    assert scratch_root() == project / "runs"
