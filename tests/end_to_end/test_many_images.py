"""Preparation of 200,000 images has bounded memory, resumes after a kill, and checks hashes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from tests.helpers.projects import ROOT, environment

pytestmark = [pytest.mark.slow, pytest.mark.long]

COUNT, DIFFERENT, SIDE = 200_000, 500, 32
CLASSES = 10
GIB = 2**30


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with params.yaml and 200,000 images, which are links to 500 files."""
    folder = tmp_path_factory.mktemp("many")
    files = []
    for i in range(DIFFERENT):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), np.uint8)
        files.append(folder / f"{i}.jpg")
        Image.fromarray(pixels).save(files[-1])
    for i in range(COUNT):
        place = folder / "images" / str(i % CLASSES)
        place.mkdir(parents=True, exist_ok=True)
        os.link(files[i % DIFFERENT], place / f"{i}.jpg")
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    changes = {"source": "folder", "folder": "images", "size": SIDE, "channels": 3, "validation": 1000, "test": 1000}
    params["data"].update(changes)
    params["teacher"].update({"steps": 1, "channels": [8, 16]})
    yaml.dump(params, folder / "params.yaml")
    return folder


def start(project: Path, scratch: str, *words: str) -> subprocess.Popen[str]:
    """Start `python -m WORDS` in the project, in a session of its own."""
    env = {**environment(), "PYTHONPATH": str(ROOT), "DMD_SCRATCH": str(project / scratch)}
    return subprocess.Popen(
        [sys.executable, "-m", *words], cwd=project, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait(process: subprocess.Popen[str]) -> tuple[int, str, int]:
    """Wait for a process, and return its exit code, its stderr and its peak memory in bytes."""
    assert process.stderr
    err = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), err, usage.ru_maxrss * 1024


def test_many_images_need_little_memory_and_a_killed_preparation_resumes(project: Path) -> None:
    code, err, memory = wait(start(project, "scratch", "stages.data", "--out", "whole"))
    assert code == 0, err
    print(f"{COUNT:,} images: {memory / GIB:.2f} GiB")  # shown by pytest -rP
    assert memory < 1.5 * GIB

    first, scratch = start(project, "killed", "stages.data", "--out", "again"), project / "killed"
    while len(shards := sorted(scratch.glob("data-*/*.done.json"))) < 4:
        assert first.poll() is None, first.communicate()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    assert not (project / "again").exists()
    before = {file.name: file.stat().st_mtime_ns for file in shards[0].parent.glob("*.safetensors")}
    code, err, _ = wait(start(project, "killed", "stages.data", "--out", "again"))
    assert code == 0, err
    untouched = [name for name, then in before.items() if (project / "again" / name).stat().st_mtime_ns == then]
    assert len(untouched) >= 4
    for file in (project / "whole").iterdir():
        assert (project / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_changed_byte_is_an_error_before_training(project: Path) -> None:
    data = project / "again"
    shard = sorted(data.glob("train.*.safetensors"))[-1]
    with shard.open("r+b") as content:
        content.seek(-1000, os.SEEK_END)
        byte = content.read(1)
        content.seek(-1000, os.SEEK_END)
        content.write(bytes([byte[0] ^ 1]))
    code, err, _ = wait(
        start(project, "t", "stages.teacher", "--data", "again", "--out", "teacher", "--losses", "losses.csv")
    )
    assert code == 1 and f"error: teacher: again/{shard.name} has changed since it was prepared" in err, err
    assert "teacher: 1/1" not in err and not (project / "teacher").exists()
