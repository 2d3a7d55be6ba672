"""Checks the user's files and folders that DVC hashes, and names what DVC cannot read or would ignore."""

import functools
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmd.config import NONE
from dmd.errors import ConfigError

INPUTS = (  # in dvc.yaml
    *("data.folder", "teacher.folder", "teacher.init_from", "evaluator.folder"),
    *("baseline.measured", "method.init_from", "encode.prompts"),
)
MAX_LISTED = 5  # problems of one folder that are listed; the others are counted
OUTPUTS = ("artifacts", "reports")


def check_inputs(variants: Sequence[Mapping[str, Any]], root: Path, in_place: bool) -> None:
    """Check what the keys of INPUTS name in the parameters of each variant, which are paths below `root` or absolute.

    in_place: whether the run works in `root` itself, and not in a worktree

    Raises ConfigError with one line for each problem, and prints a note for what DVC passes by.
    """
    inputs = dict.fromkeys(pair for params in variants for pair in list_inputs(params).items())
    if problems := [text for key, value in inputs for text in _check_input(key, value, root, in_place)]:
        raise ConfigError("\n".join(problems))


def _check_input(key: str, value: str, root: Path, in_place: bool) -> list[str]:
    path = root / value
    if overlap := _find_overlap(path, root, in_place):
        return [f"{key}: {overlap}"]
    problems = list(find_problems(path))
    is_inside = in_place or not Path(value).is_absolute()  # what is absolute lies outside a worktree
    if not problems and is_inside and path.resolve().is_relative_to(root.resolve()):
        problems = list(_find_ignored(path, root))
    if links := list_links(path):
        more = f" and {len(links) - 1} more" if len(links) > 1 else ""
        _note(f"{key}: {show(links[0])}{more}: DVC follows no link to a folder; after a change there, use --force")
    lines = [f"{key}: {text}" for text in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        lines.append(f"{key}: {show(path)}: {len(problems) - MAX_LISTED} further files or folders have problems")
    return lines


@functools.cache
def _note(text: str) -> None:
    """Print a note once, although a command and its flow both check the inputs."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def list_inputs(params: Mapping[str, Any]) -> dict[str, str]:
    """Return the value of each key of INPUTS that is not none."""
    values = {key: params[key.split(".")[0]][key.split(".")[1]] for key in INPUTS}
    return {key: value for key, value in values.items() if value != NONE}


def find_problems(path: Path) -> Iterator[str]:
    """Yield a line for each file or folder, from `path` downwards, that DVC cannot hash."""
    try:
        mode = path.stat().st_mode
    except OSError as e:
        yield f"{show(path)}: {_explain_link(path, e) if path.is_symlink() else e.strerror}"
        return
    if problem := _find_problem(path.name, str(path), stat.S_ISDIR(mode), stat.S_ISREG(mode)):
        yield f"{show(path)}: {problem}"
    elif stat.S_ISDIR(mode):
        yield from _walk(str(path))


def _walk(folder: str) -> Iterator[str]:
    """Yield a line for each problem below a folder. Makes one system call per file, since there may be a million."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_symlink():
            if not Path(entry.path).is_dir():  # list_links names the links to folders
                yield from find_problems(Path(entry.path))
            continue
        is_folder = entry.is_dir()
        if problem := _find_problem(entry.name, entry.path, is_folder, entry.is_file()):
            yield f"{show(Path(entry.path))}: {problem}"
        elif is_folder:
            yield from _walk(entry.path)


def _find_problem(name: str, path: str, is_folder: bool, is_file: bool) -> str | None:
    """Return why DVC cannot read a file or folder, and the remedy; None if it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    if is_folder:
        return None if os.access(path, os.R_OK | os.X_OK) else "you may not read this folder; chmod u+rx it"
    if not is_file:
        return "neither a file nor a folder (a pipe, socket or device); move it away"
    if name == ".dvcignore":
        return "DVC allows no .dvcignore in a folder that it hashes; move it away"
    return None if os.access(path, os.R_OK) else "you may not read this file; chmod u+r it"


def _explain_link(path: Path, error: OSError) -> str:
    target = show(path.readlink())
    if isinstance(error, FileNotFoundError):
        return f"a link to {target}, which does not exist; remove the link or restore its target"
    return f"a link to {target}, which cannot be followed ({error.strerror}); remove the link"


def list_links(path: Path) -> list[Path]:
    """Return the links to folders below a path: the stages follow them, but DVC does not, and misses changes there."""
    return [
        Path(folder) / name
        for folder, folders, _ in os.walk(path)
        for name in folders
        if (Path(folder) / name).is_symlink()
    ]


def _find_overlap(path: Path, root: Path, in_place: bool) -> str | None:
    """Return why a path that holds the project, or its outputs, cannot be an input; None if it holds neither."""
    place, home = path.resolve(), root.resolve()
    if home.is_relative_to(place):
        return f"{show(path)} holds the project itself; move the files to a folder of their own"
    for name in OUTPUTS:
        out = home / name
        if in_place and (place.is_relative_to(out) or out.is_relative_to(place)):
            return f"{show(path)} is written by the pipeline; copy it out of {name}/, or use a preset or --set"
    return None


def _find_ignored(path: Path, root: Path) -> Iterator[str]:
    """Yield a line for each folder of the project, from a path downwards, that DVC ignores."""
    from dvc.repo import Repo  # takes a second

    with Repo(str(root)) as repo:
        for folder, folders, _ in os.walk(path):
            if repo.dvcignore.is_ignored_dir(folder):
                folders.clear()
                yield (
                    f"{show(Path(folder))}: DVC ignores this folder, because of .dvcignore or of a .dvc in it, and "
                    "would not notice changes; move it out of the project"
                )
            folders[:] = [name for name in folders if name != ".git"]


def show(path: Path) -> str:
    """Return a path as printable text on one line."""
    text = os.fsencode(path).decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
