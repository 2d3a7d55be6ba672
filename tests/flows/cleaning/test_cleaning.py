"""`flows.clean` shows what nothing needs, removes it on demand, and never what something refers to."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from dvc.repo import Repo

from dmd.errors import UserError
from flows import clean
from flows.cleaning.cache import find_orphans, hash_locks
from flows.cleaning.finding import keep_others_out
from flows.cleaning.scratch import find_scratch
from flows.runtime.file_lock import hold_lock
from tests.helpers.projects import ROOT

WEEK = 7 * 86400


def git(root: Path, *words: str) -> str:
    author = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    done = subprocess.run(["git", *author, *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Project:
    """A repository whose dvc.lock and cache are written by hand."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root, root / ".dvc/cache"
        root.mkdir()
        git(root, "init", "-q", "-b", "main")

    def store(self, content: str, suffix: str = "") -> str:
        digest = hashlib.md5(content.encode()).hexdigest()
        file = self.cache / "files/md5" / digest[:2] / f"{digest[2:]}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        return digest + suffix

    def store_folder(self, *digests: str) -> str:
        listing = [{"md5": digest, "relpath": digest[:4]} for digest in digests]
        return self.store(json.dumps(listing), ".dir")

    def lock(self, *digests: str, place: Path | None = None) -> None:
        outs = "".join(f"    - path: a/{d[:4]}\n      md5: {d}\n" for d in digests)
        ((place or self.root) / "dvc.lock").write_text(f"schema: '2.0'\nstages:\n  one:\n    outs:\n{outs}")

    def commit(self, message: str) -> str:
        git(self.root, "add", "dvc.lock")
        git(self.root, "commit", "-qm", message)
        return git(self.root, "rev-parse", "HEAD")

    def orphans(self, *commits: str, digests: tuple[str, ...] = ()) -> set[str]:
        return {item.name for item in find_orphans(self.root, self.cache, commits, digests)}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def test_an_object_that_nothing_names_is_an_orphan_and_any_reference_keeps_it(project: Project, tmp_path: Path) -> None:
    """References: an older commit, a branch that a merge discards, a tag, an experiment, a worktree, an open change."""
    kept, p = {}, project
    for name in ("older", "branch", "experiment", "now", "worktree", "uncommitted", "version", "data"):
        kept[name] = p.store(name)
    inside, orphan, lost = p.store("a file of a folder"), p.store("orphan"), p.store("a file of an orphaned folder")
    folder, lost_folder = p.store_folder(inside), p.store_folder(lost)
    p.lock(kept["older"], folder)
    p.commit("older")
    git(p.root, "switch", "-qc", "side")
    p.lock(kept["branch"])
    p.commit("side")
    git(p.root, "switch", "-q", "main")
    p.lock(kept["now"])
    p.commit("now")
    git(p.root, "merge", "-q", "-s", "ours", "--no-edit", "side")
    git(p.root, "branch", "-qD", "side")
    git(p.root, "switch", "-q", "--detach")
    p.lock(kept["experiment"])
    git(p.root, "update-ref", "refs/exps/ab/cd/seven", p.commit("experiment"))
    p.lock(kept["version"])
    version = p.commit("version")
    git(p.root, "switch", "-q", "main")
    git(p.root, "worktree", "add", "-q", "--detach", str(tmp_path / "other"))
    p.lock(kept["worktree"], place=tmp_path / "other")
    p.lock(kept["now"], kept["uncommitted"])
    git(p.root, "reflog", "expire", "--expire=now", "--all")

    gone = {orphan, lost, lost_folder.removesuffix(".dir")}
    assert p.orphans(version, digests=(kept["data"],)) == gone
    assert p.orphans() == gone | {kept["version"], kept["data"]}
    run = p.cache / "runs/ab/abc/entry"
    run.parent.mkdir(parents=True)
    run.write_text(f"md5: {orphan}")
    for item in find_orphans(p.root, p.cache, [version], [kept["data"]]):
        item.remove()
    left = {f.parent.name + f.name.removesuffix(".dir") for f in (p.cache / "files/md5").rglob("*") if f.is_file()}
    assert left == {d.removesuffix(".dir") for d in (*kept.values(), inside, folder)} and not run.exists()


def test_a_data_folder_that_is_not_committed_yet_keeps_its_objects(project: Project) -> None:
    """After `dvc add data/of/mine/photos`, its .dvc file lies beside the folder, where git does not track it yet."""
    project.lock()
    project.commit("first")
    file = project.root / "data" / "of" / "mine" / "photos.dvc"
    file.parent.mkdir(parents=True)
    file.write_text(f"outs:\n- md5: {project.store('picture')}\n")
    assert project.orphans() == set()


def test_a_lock_that_cannot_be_parsed_protects_its_objects(project: Project) -> None:
    digest = project.store("x")
    (project.root / "dvc.lock").write_text(f"<<<<<<< conflict\n md5: {digest}")
    project.commit("conflict")
    assert project.orphans() == set()


def test_a_repository_without_a_commit_is_an_error(project: Project) -> None:
    project.store("x")
    with pytest.raises(UserError, match="git cannot list the commits"):
        project.orphans()


def test_the_locks_of_branches_and_folders_are_known(project: Project) -> None:
    project.lock("a" * 32)
    project.commit("one")
    first = hashlib.sha256((project.root / "dvc.lock").read_bytes()).hexdigest()
    project.lock("b" * 32)
    assert hash_locks(project.root) >= {first, hashlib.sha256((project.root / "dvc.lock").read_bytes()).hexdigest()}


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))


def test_old_scratch_is_found_and_downloads_logs_and_recent_runs_are_not(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    folders = ("train-0123456789abcdef", "pairs-0123456789abcdef", "downloads", "prefect", "features/efficientnet")
    for name in (*folders, "live/workspace-0123456789ab", "live/digits-s1-0123456789ab"):
        (runs / name).mkdir(parents=True)
        (runs / name / "file").write_text("12345")
    age(runs, 2 * WEEK)
    for name in ("pairs-0123456789abcdef", "live/digits-s1-0123456789ab"):
        (runs / name / "file").write_text("it works at this moment")
    items = list(find_scratch(runs, 7))
    assert [(i.kind, i.name) for i in items] == [
        ("unfinished run", "train-0123456789abcdef"),
        ("live logs", "workspace-0123456789ab"),
        ("stored features", "file"),
    ]
    assert items[0].size == 5 and not list(find_scratch(tmp_path / "none", 7))
    for item in items:
        item.remove()
    assert {p.name for p in runs.iterdir()} == {"pairs-0123456789abcdef", "downloads", "prefect", "features", "live"}


def test_the_command_shows_first_and_removes_with_yes(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project.root
    Repo.init(str(root)).close()
    shutil.copy(ROOT / "params.yaml", root)
    project.lock(project.store("kept"))
    project.commit("one")
    orphan = project.store("orphan")
    scratch = root / "runs/train-0123456789abcdef"
    scratch.mkdir(parents=True)
    age(scratch, 2 * WEEK)
    monkeypatch.chdir(root)
    for name in ("DMD_SCRATCH", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    assert clean.main([]) == 0
    shown = capsys.readouterr().out
    assert "unfinished run: 1, 0 B (train-0123456789abcdef)" in shown and f"cache object: 1, 6 B ({orphan})" in shown
    assert "nothing is removed yet; --yes removes it" in shown and scratch.exists()
    assert clean.main(["--yes"]) == 0 and not scratch.exists()
    assert capsys.readouterr().out.endswith("removed\n")
    assert clean.main([]) == 0 and capsys.readouterr().out == "nothing to remove\n"


def test_nothing_is_removed_while_a_run_works(project: Project) -> None:
    with (
        hold_lock(project.root / "runs" / "flow.lock"),
        pytest.raises(UserError, match="a run works in this project"),
        keep_others_out(project.root),
    ):
        pytest.fail("not reached")


def test_nothing_is_removed_while_an_experiment_runs(project: Project, tmp_path: Path) -> None:
    """An experiment works in a temporary worktree, whose lock is free while its stages run."""
    project.lock(project.store("x"))
    project.commit("first")
    place = tmp_path / f"onestep-{os.getpid()}-x" / "project"
    git(project.root, "worktree", "add", "-q", "--detach", str(place))
    with (
        pytest.raises(UserError, match=rf"a run works in this project.*pid {os.getpid()}"),
        keep_others_out(project.root),
    ):
        pytest.fail("not reached")
    git(project.root, "worktree", "remove", str(place))
    with keep_others_out(project.root):
        pass
