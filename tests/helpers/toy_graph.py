"""A git and DVC repository with three cheap stages."""

import subprocess
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from ruamel.yaml import YAML

from flows.workspace.graph import StageSpec, read_graph

TOY = {
    "first": {
        "cmd": "cp source.txt first.txt",
        "deps": ["source.txt"],
        "outs": ["first.txt"],
        "desc": "a copy",
        "meta": {"prefect": {"retries": 2, "timeout": 60, "tags": ["cpu"]}},
    },
    "second": {"cmd": "cat first.txt first.txt > second.txt", "deps": ["first.txt"], "outs": ["second.txt"]},
    "aside": {"cmd": "echo aside > aside.txt", "outs": ["aside.txt"]},
}


def write_stages(root: Path, stages: dict[str, Any]) -> None:
    YAML().dump({"stages": stages}, root / "dvc.yaml")


def new_toy(folder: Path) -> Path:
    """Create a git and DVC repository with the stages of TOY."""
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=folder, check=True)
    Repo.init(str(folder)).close()
    (folder / "source.txt").write_text("1\n")
    write_stages(folder, TOY)
    return folder


def commit(root: Path) -> None:
    """Commit everything in the folder."""
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    subprocess.run(["git", *author, "commit", "-q", "-m", "toy"], cwd=root, check=True)


def one_stage(root: Path, cmd: str, **settings: Any) -> StageSpec:
    write_stages(root, {"one": {"cmd": cmd, "outs": ["out.txt"], "meta": {"prefect": settings}}})
    return read_graph(root)["one"]


def ignore_line(_line: str) -> None:
    """A listener that does nothing."""
