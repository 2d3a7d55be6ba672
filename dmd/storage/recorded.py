"""Outputs of the pipeline, compared with the hashes that dvc.lock records for them.

DVC hashes a file again only if its size or time stamp changes, and takes a file of its cache as it is. It therefore
does not see a flipped bit. Here every byte is hashed. The format is that of DVC 3
(https://dvc.org/doc/user-guide/project-structure).
"""

import configparser
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dmd.errors import DataError

LOCK = "dvc.lock"
FOLDER = ".dir"  # ends the hash of a folder: the md5 of the list of its files
STILL_S = 3  # a dvc.lock that has not changed for so long is taken as it is; DVC writes it in place, in a second
WORKERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True)
class Output:
    """An output of a stage as dvc.lock records it."""

    stage: str
    path: Path  # from the project's folder
    md5: str  # of a file, or of the list of the files of a folder, with FOLDER at its end


def read_outputs(root: Path, wanted: Collection[Path] = ()) -> list[Output]:
    """Return the outputs that dvc.lock records; none without a dvc.lock. Raises DataError if it is not readable.

    DVC may be writing the file, for a stage that ends meanwhile. While it is cut off, or lacks one of the `wanted`
    absolute paths, its next version is awaited for STILL_S.
    """
    file = root / LOCK
    if not file.exists():
        return []
    text = file.read_text(encoding="utf-8", errors="replace")
    while not _is_complete(text, root, wanted) and (later := _await_change(file, text)) is not None:
        text = later
    try:
        return _parse(text)
    except Exception as e:  # ruamel and a file of another form raise many types
        reason = " ".join(str(e).split())[:200]
        raise DataError(f"{file} cannot be read ({reason}); take it from the last commit, then run again") from None


def _parse(text: str) -> list[Output]:
    stages = YAML(typ="safe", pure=True).load(text)["stages"]
    outs = [(stage, out) for stage, entry in stages.items() for out in entry.get("outs", [])]
    return [Output(stage, Path(out["path"]), out["md5"]) for stage, out in outs if out.get("hash") == "md5"]


def _is_complete(text: str, root: Path, wanted: Collection[Path]) -> bool:
    """Whether the text has the form of a dvc.lock to its last line, and records the wanted paths."""
    try:
        return text.endswith("\n") and {(root / o.path).absolute() for o in _parse(text)}.issuperset(wanted)
    except Exception:  # as in read_outputs
        return False


def _await_change(file: Path, text: str) -> str | None:
    """Return the first other text that the file has within STILL_S; None if it stays the same."""
    end = time.monotonic() + STILL_S
    while time.monotonic() < end:
        time.sleep(0.05)
        if (later := file.read_text(encoding="utf-8", errors="replace")) != text:
            return later
    return None


def check_recorded(paths: Iterable[Path], root: Path) -> None:
    """Raise DataError, with a line for each changed file, if outputs differ from dvc.lock in `root`.

    Paths that dvc.lock does not record as outputs are not checked.
    """
    wanted = {path.absolute() for path in paths}
    outputs = [o for o in read_outputs(root, wanted) if (root / o.path).absolute() in wanted]
    if problems := [line for output in outputs for line in _find_changes(output, root)]:
        raise DataError("\n".join(problems))


def _find_changes(output: Output, root: Path) -> list[str]:
    """Return a line for each file of an output that differs from dvc.lock."""
    hashes = _hash_files(root / output.path)
    if _combine(hashes, output.md5.endswith(FOLDER)) == output.md5:
        return []
    cache = _find_cache(root)
    recorded = _read_listing(output.md5, cache)
    names = sorted(name for name in hashes.keys() | recorded.keys() if hashes.get(name) != recorded.get(name))
    return [_explain(output, name, recorded.get(name), cache) for name in names if recorded] or [
        _explain(output, "", None, cache)
    ]


def _explain(output: Output, name: str, md5: str | None, cache: Path) -> str:
    """Say that a file has changed; name its copy in DVC's cache too if that is damaged."""
    delete = str(output.path)
    copy = _object(md5, cache) if md5 else None
    if copy and copy.is_file() and _md5(copy) != md5:
        delete = f"{delete} and its damaged copy in DVC's cache, {copy},"
    return (
        f"{output.path / name} has changed since stage {output.stage} wrote it: it differs from dvc.lock; "
        f"delete {delete} and run again"
    )


def _hash_files(path: Path) -> dict[str, str]:
    """Return the md5 of a file under the name "", or of each file of a folder under its relative path."""
    if not path.is_dir():
        return {"": _md5(path)} if path.is_file() else {}
    files = sorted(p for p in path.rglob("*") if p.is_file())
    with ThreadPoolExecutor(WORKERS) as threads:
        return {f.relative_to(path).as_posix(): md5 for f, md5 in zip(files, threads.map(_md5, files), strict=True)}


def _md5(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _combine(hashes: dict[str, str], is_folder: bool) -> str:
    """Return DVC's hash of an output from those of its files."""
    if not is_folder:
        return hashes.get("", "")
    listing = [{"md5": md5, "relpath": name} for name, md5 in sorted(hashes.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + FOLDER


def _read_listing(md5: str, cache: Path) -> dict[str, str]:
    """Return the recorded md5 of each file of an output; empty if DVC's cache does not hold the list of a folder."""
    if not md5.endswith(FOLDER):
        return {"": md5}
    try:
        content = _object(md5, cache).read_bytes()
        listing: list[dict[str, Any]] = json.loads(content)
        hashes = {entry["relpath"]: entry["md5"] for entry in listing}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return hashes if _combine(hashes, is_folder=True) == md5 else {}


def _object(md5: str, cache: Path) -> Path:
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def _find_cache(root: Path) -> Path:
    """Return the folder of DVC's cache, which the worktrees of a repository share."""
    config = configparser.RawConfigParser(strict=False)
    with contextlib.suppress(configparser.Error):
        config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"])
    return root / ".dvc" / config.get("cache", "dir", fallback="cache")
