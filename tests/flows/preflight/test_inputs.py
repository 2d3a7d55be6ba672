"""Files that DVC cannot hash, or would pass by, are named before DVC runs, with the remedy."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from dmd.config import NONE
from dmd.errors import ConfigError
from flows.preflight.inputs import INPUTS, check_inputs, list_inputs, list_links
from tests.helpers.projects import ROOT


def params(**folders: str) -> dict[str, dict[str, str]]:
    """The groups that name inputs; a keyword is a key with __ for its dot."""
    values = {key: folders.get(key.replace(".", "__"), NONE) for key in INPUTS}
    groups: dict[str, dict[str, str]] = {}
    for key, value in values.items():
        groups.setdefault(key.split(".")[0], {})[key.split(".")[1]] = value
    return groups


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project whose .dvcignore is this project's."""
    root = tmp_path_factory.mktemp("müller lüdenscheidt") / "project"
    root.mkdir()
    Repo.init(str(root), no_scm=True).close()
    (root / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    return root


@pytest.fixture
def folder(repository: Path, request: pytest.FixtureRequest) -> Path:
    """An image folder in the project, with one image."""
    folder = repository / f"images {abs(hash(request.node.name))}" / "a"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"1")
    return folder.parent


def test_the_keys_are_those_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].values()
    deps = {dep[2:-1] for stage in stages for dep in stage["deps"] if dep.startswith("${")}
    assert set(INPUTS) == deps
    assert list_inputs(YAML(typ="safe").load(ROOT / "params.yaml")) == {}


def bind(folder: Path) -> None:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket has at most 108 bytes
    with socket.socket(socket.AF_UNIX) as s:
        s.bind("s")
    os.chdir(here)


PROBLEMS: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling": (lambda f: (f / "l.png").symlink_to("gone"), "a/l.png: a link to gone, which does not exist; remove"),
    "loop": (lambda f: (f / "l.png").symlink_to("l.png"), "a/l.png: a link to l.png, which cannot be followed"),
    "latin-1": (
        lambda f: os.close(os.open(os.fsencode(f) + b"/caf\xe9.png", os.O_CREAT)),
        r"a/caf\xe9.png: its name is not UTF-8; rename it",
    ),
    "latin-1 folder": (
        lambda f: os.mkdir(os.fsencode(f) + b"/\xfcber"),  # noqa: PTH102 - a name in bytes
        r"a/\xfcber: its name is not UTF-8; rename it",
    ),
    "pipe": (lambda f: os.mkfifo(f / "p"), "a/p: neither a file nor a folder (a pipe, socket or device); move it away"),
    "socket": (bind, "a/s: neither a file nor a folder (a pipe, socket or device); move it away"),
    "device": (lambda f: (f / "zero").symlink_to("/dev/zero"), "a/zero: neither a file nor a folder"),
    "dvcignore": (lambda f: (f / ".dvcignore").touch(), "a/.dvcignore: DVC allows no .dvcignore in a folder"),
    "newline": (lambda f: (f / "a\nb.png").symlink_to("gone"), r"a/a\nb.png: a link to gone, which does not exist"),
    "dvc inside": (lambda f: (f / ".dvc").mkdir(), "a: DVC ignores this folder, because of .dvcignore or of a .dvc"),
    "ignored": (lambda f: (f / "__pycache__").mkdir(), "a/__pycache__: DVC ignores this folder"),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_what_dvc_cannot_read_is_named(repository: Path, folder: Path, kind: str) -> None:
    make, text = PROBLEMS[kind]
    make(folder / "a")
    with pytest.raises(ConfigError) as caught:
        check_inputs([params(data__folder=folder.name)], repository, in_place=True)
    assert str(caught.value).startswith(f"data.folder: {folder}/{text}") and "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_the_user_may_not_read_is_named(repository: Path, folder: Path) -> None:
    (folder / "a" / "1.png").chmod(0)
    (folder / "b").mkdir(mode=0)
    with pytest.raises(ConfigError) as caught:
        check_inputs([params(data__folder=folder.name)], repository, in_place=True)
    assert str(caught.value).count("you may not read this") == 2


def test_many_problems_are_counted_and_each_key_is_named(repository: Path, folder: Path) -> None:
    for n in range(9):
        (folder / f"{n}.png").symlink_to("gone")
    both = params(data__folder=str(folder), teacher__folder=f"{folder.name}/")
    with pytest.raises(ConfigError) as caught:
        check_inputs([both, both], repository, in_place=True)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12 and lines[5].endswith(": 4 further files or folders have problems")
    assert sum(line.startswith("teacher.folder: ") for line in lines) == 6


@pytest.mark.parametrize("value", [".", "..", "/", "artifacts", "artifacts/generator", "reports"])
def test_a_folder_that_the_run_writes_is_no_input(repository: Path, value: str) -> None:
    (repository / "artifacts" / "generator").mkdir(parents=True, exist_ok=True)
    (repository / "reports").mkdir(exist_ok=True)
    holds_all = value in (".", "..", "/")
    with pytest.raises(ConfigError, match="holds the project itself" if holds_all else "is written by the pipeline"):
        check_inputs([params(method__init_from=value)], repository, in_place=True)
    if not holds_all:  # a run in a worktree reads the results of the project's folder
        check_inputs([params(method__init_from=str(repository / value))], repository, in_place=False)


def test_ordinary_folders_are_allowed(repository: Path, folder: Path, tmp_path: Path) -> None:
    (folder / "a" / ".git").mkdir()
    (folder / "a" / "runs").mkdir()  # a class may have this name
    (folder / "a" / "zwei ü").write_text("2")
    (folder / "a" / "link.png").symlink_to("1.png")
    for value in (folder.name, f"./{folder.name}/", str(folder), f"{folder.name}/../{folder.name}"):
        check_inputs([params(data__folder=value)], repository, in_place=True)
    (tmp_path / ".dvc").mkdir()
    check_inputs([params(data__folder=str(tmp_path))], repository, in_place=True)  # DVC ignores nothing outside
    (repository / "linked").symlink_to(tmp_path)
    check_inputs([params(data__folder="linked")], repository, in_place=True)


def test_a_link_to_a_folder_is_noted(repository: Path, folder: Path, capsys: pytest.CaptureFixture) -> None:
    (folder / "b").symlink_to("a")
    assert list_links(folder) == [folder / "b"]
    for _ in range(2):
        check_inputs([params(data__folder=folder.name)], repository, in_place=True)
    note = "DVC follows no link to a folder; after a change there, use --force"
    assert capsys.readouterr().err == f"note: data.folder: {folder}/b: {note}\n"
