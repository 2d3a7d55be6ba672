"""Every artifact that a stage reads is compared with dvc.lock, byte by byte, before the stage starts."""

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dmd.errors import DataError
from dmd.storage.recorded import check_recorded
from stages import command
from tests.helpers.faults.damage import DAMAGES, do_damage, flip
from tests.helpers.projects import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
OPTION = re.compile(r"--(\S+) ((?:artifacts|reports)/\S+)")
WRITTEN = {out if isinstance(out, str) else next(iter(out)) for s in STAGES.values() for kind in ("outs", "plots")
           for out in s.get(kind, [])}  # fmt: skip
# For every artifact that stages read: one of these stages, and the option that names the artifact.
READ = {
    path: (stage, option)
    for stage, entry in STAGES.items()
    for option, path in OPTION.findall(entry["cmd"])
    if path in entry.get("deps", [])
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository in which every artifact of the pipeline is recorded in dvc.lock."""
    root = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "params.yaml", root)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    Repo.init(str(root)).close()
    for path in READ:
        names = [""] if Path(path).suffix else ["manifest.json", "unet/weights.safetensors"]
        for name in names:
            (root / path / name).parent.mkdir(parents=True, exist_ok=True)
            (root / path / name).write_bytes(f"{path} {name}".encode() * 50)
    YAML().dump({"stages": {"write": {"cmd": "true", "outs": list(READ)}}}, root / "dvc.yaml")
    with Repo(str(root)) as repo:
        repo.commit(force=True)
    return root


@pytest.fixture
def project(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy with the same time stamps, as the working folder."""
    root = shutil.copytree(written, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.delenv(command.LAUNCHED, raising=False)
    yield root


def run_stage(path: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a stage that reads `path` and whose body does nothing; return whether its body was reached."""
    reached: list[bool] = []
    name, option = READ[path]
    monkeypatch.setattr(sys, "argv", [f"stages.{name}", f"--{option}", path])
    try:
        command.run(name, lambda *_: reached.append(True) or "", inputs=(option,), outs=())
    except SystemExit as e:
        assert e.code == 1
    return bool(reached)


def test_the_table_covers_every_kind_of_artifact() -> None:
    names = ("data", "teacher", "encoded", "evaluator", "baseline", "pairs", "generator", "training")
    assert READ.keys() >= {f"artifacts/{name}" for name in names} | {"reports/losses.csv"}
    assert READ.keys() <= WRITTEN


@pytest.mark.parametrize("keep_time", [True, False], ids=["same-time", "new-time"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_input_is_named_before_a_stage_starts(
    damage: str,
    keep_time: bool,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("other.csv").write_text("a file of another run")
    for path in READ:
        assert run_stage(path, monkeypatch), "an intact input is used"
        files = (
            [path, "other.csv"] if Path(path).suffix else [f"{path}/unet/weights.safetensors", f"{path}/manifest.json"]
        )
        do_damage(damage, [Path(file) for file in files], keep_time)
        capsys.readouterr()
        assert not run_stage(path, monkeypatch)
        errors = capsys.readouterr().err.splitlines()
        damaged = files if damage == "swapped" and not Path(path).suffix else files[:1]
        assert sorted(line.split()[2] for line in errors) == sorted(damaged), errors
        assert all("differs from dvc.lock; delete" in line for line in errors)


def test_a_damaged_file_of_the_cache_is_named_when_its_copy_is_used(project: Path) -> None:
    """DVC checks a damaged file out without a word; the check names the copy and the file in the cache."""
    path = Path("artifacts/pairs/unet/weights.safetensors")
    with Repo(str(project)) as repo:
        cached = next(
            f for f in (project / ".dvc/cache").rglob("*") if f.is_file() and f.read_bytes() == path.read_bytes()
        )
        cached.chmod(0o644)
        flip([cached])
        cached.chmod(0o444)
        shutil.rmtree("artifacts/pairs")
        repo.checkout(["artifacts/pairs"])
        assert path.read_bytes() == cached.read_bytes() and not repo.status()
    with pytest.raises(DataError) as error:
        check_recorded([Path("artifacts/pairs")], Path())
    assert str(error.value).startswith(f"{path} has changed") and str(cached.relative_to(project)) in str(error.value)


def test_a_folder_is_named_if_the_cache_has_no_list_of_its_files(project: Path) -> None:
    shutil.rmtree(".dvc/cache")
    flip([Path("artifacts/data/manifest.json")])
    with pytest.raises(DataError, match=r"^artifacts/data has changed since stage write"):
        check_recorded([Path("artifacts/data")], Path())


def test_a_missing_and_a_surplus_file_are_named(project: Path) -> None:
    Path("artifacts/data/manifest.json").unlink()
    Path("artifacts/data/more").touch()
    with pytest.raises(DataError) as error:
        check_recorded([Path("artifacts/data")], Path())
    assert [line.split()[0] for line in str(error.value).splitlines()] == [
        "artifacts/data/manifest.json",
        "artifacts/data/more",
    ]


def test_only_outputs_in_dvc_lock_are_compared(project: Path, tmp_path: Path) -> None:
    flip([Path("params.yaml")])
    check_recorded([Path("params.yaml"), project / "artifacts/data", tmp_path / "elsewhere"], Path())
    Path("dvc.lock").write_text("stages: [")
    with pytest.raises(DataError, match=r"^dvc.lock cannot be read"):
        check_recorded([Path("artifacts/data")], Path())


@pytest.mark.parametrize("cut", ["empty", "in a hash", "between stages"])
def test_a_lock_that_dvc_is_writing_is_awaited(cut: str, project: Path) -> None:
    """Stages of one graph run side by side: DVC writes dvc.lock in place when another of them ends."""
    lock, path = Path("dvc.lock"), Path("artifacts/pairs")
    text = lock.read_text()
    part = {"empty": 0, "in a hash": text.index("md5:") + 9, "between stages": text.index("- path: artifacts")}[cut]
    flip([path / "manifest.json"])
    lock.write_text(text[:part])

    def write_the_rest() -> None:
        time.sleep(0.5)
        with lock.open("a") as file:
            file.write(text[part:])

    writer = threading.Thread(target=write_the_rest)
    writer.start()
    with pytest.raises(DataError, match=r"^artifacts/pairs/manifest.json has changed"):
        check_recorded([path], Path())
    writer.join()
