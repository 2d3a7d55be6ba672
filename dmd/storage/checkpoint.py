"""Resumable state of a stage, in a scratch folder named by everything the run depends on; removed when it succeeds.

The folder lies outside the stage's outputs: DVC deletes those before a stage runs, and `persist: true` would hand the
checkpoint of one experiment to another.

A training waits only until its state is copied; a thread writes the copy. The rows of numbers are in a file of their
own, so that the cost of a checkpoint does not grow with the turns done.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from dmd.errors import CheckpointError
from dmd.storage.background import Background
from dmd.storage.files import sha256
from dmd.storage.row_log import Row, RowLog
from dmd.storage.scratch import scratch_root
from dmd.storage.seal import is_intact, is_sealed, remove_sealed, report_damage, write_sealed
from dmd.storage.snapshot import snapshot

ON_CODE_CHANGE = "DMD_RESUME"  # environment variable: continue | fresh
STATE = "state"  # checkpoints are state-000001.pt, state-000002.pt, ...
STOP = "-stop"  # mark of a checkpoint that a signal caused, at no fixed turn: state-000003-stop.pt
ROWS = "rows.jsonl"
FORMAT = 2  # version of the file's layout; the first version had no number, and its files held all rows
KEPT = 2  # checkpoints that are kept; the older one is used if the last one is damaged

ROOT = Path(__file__).resolve().parents[2]


def fingerprint(params: dict[str, Any], inputs: dict[str, Path]) -> str:
    """Hash a stage's parameters and the contents of its inputs."""
    parts = {"params": params, "inputs": {name: sha256(path) for name, path in inputs.items()}}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def code_hash() -> str:
    """Hash the project's imported modules, except those directly in dmd/, which compute no results."""
    files = {Path(file).resolve() for m in list(sys.modules.values()) if (file := getattr(m, "__file__", None))}
    code = sorted(f for f in files if f.is_relative_to(ROOT) and ".venv" not in f.parts and f.parent != ROOT / "dmd")
    return hashlib.sha256("".join(sha256(f) for f in code).encode()).hexdigest()[:16]


class Scratch:
    """The resumable state of one run of a stage: the last checkpoints, each with its checksum, and the rows so far.

    As a context manager, it waits at the end of its block until the thread has written the last checkpoint.
    """

    def __init__(self, stage: str, params: dict[str, Any], inputs: dict[str, Path]) -> None:
        self._open(scratch_root(), f"{stage}-{fingerprint(params, inputs)}", code_hash())

    @classmethod
    def at(cls, root: Path, run: str, code: str) -> "Scratch":
        """The resumable state of the run of that name in the folder `root`."""
        scratch = cls.__new__(cls)
        scratch._open(root, run, code)
        return scratch

    def _open(self, root: Path, run: str, code: str) -> None:
        self.root, self.run, self.code = root, run, code
        self.folder = root / run
        self.folder.mkdir(parents=True, exist_ok=True)
        self.rows, self.writer = RowLog(self.folder / ROWS), Background()

    def part(self, name: str) -> "Scratch":
        """The resumable state of one of several trainings of the run; it is discarded with the run's."""
        return Scratch.at(self.root, f"{self.run}/{name}", self.code)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind is None:
            self.wait()
        elif self.writer.task is not None:
            self.writer.task.exception()  # waits; the error that left the block is raised, not that of the thread

    def checkpoints(self, only_periodic: bool = False) -> list[Path]:
        """Return the files of the complete checkpoints, the oldest first. only_periodic: without those of signals."""
        files = sorted(file for file in self.folder.glob(f"{STATE}-*.pt") if is_sealed(file))
        return [file for file in files if not (only_periodic and file.stem.endswith(STOP))]

    def save(
        self, state: dict[str, Any], rows: Sequence[Row] = (), is_periodic: bool = True, writes: bool = True
    ) -> None:
        """Copy a state to the CPU and write it in a thread, with the rows since the last call.

        is_periodic: every run saves at this turn, so that a run may roll back to it. writes: whether this process
        writes; with shards every process calls this, see `snapshot`. An error of the thread is raised by the next call
        of `check`, `save` or `wait`.
        """
        self.wait()
        copied = snapshot(state, keep=writes)
        if not writes:
            return
        earlier = self.checkpoints()
        number = int(earlier[-1].stem.split("-")[1]) + 1 if earlier else 1
        file = self.folder / f"{STATE}-{number:06d}{'' if is_periodic else STOP}.pt"
        self.writer.start(partial(self._write, file, copied, list(rows)))

    def _write(self, file: Path, state: dict[str, Any], rows: list[Row]) -> None:
        mark = self.rows.append(rows)
        content = {"format": FORMAT, "code": self.code, "run": self.run, "rows": mark, "state": state}
        write_sealed(file, lambda out: torch.save(content, out))  # type: ignore[arg-type]  # it takes any writer
        for old in set(self.checkpoints()[:-KEPT]) - set(self.checkpoints(only_periodic=True)[-1:]):
            remove_sealed(old)

    def check(self) -> None:
        """Raise the error of the thread if it has failed. It takes no time, so it can be called in every turn."""
        self.writer.check()

    def wait(self) -> None:
        """Wait until the last checkpoint is written, and raise the error of the thread, if it has failed."""
        self.writer.wait()

    def start(self) -> None:
        """Discard the state if $DMD_RESUME asks for that.

        Of several processes, the main one calls this before any of them loads; otherwise one would remove what another
        one reads or has already written.
        """
        if os.environ.get(ON_CODE_CHANGE) == "fresh":
            self.discard()
            self.folder.mkdir(parents=True, exist_ok=True)

    def load(self, starts: bool = True) -> dict[str, Any] | None:
        """Return the state of the last intact checkpoint; None if there is no checkpoint. Later rows are cut off.

        starts: whether to call `start` first, for a run of one process. Raises CheckpointError if every checkpoint is
        damaged, or if other code wrote it and $DMD_RESUME is not set.
        """
        self.wait()
        if starts:
            self.start()
        content = self._load_last(self.checkpoints())
        self.rows.cut(content["rows"] if content else None)
        if content is None:
            return None
        if content["code"] != self.code and os.environ.get(ON_CODE_CHANGE) != "continue":
            raise CheckpointError(
                f"{self.folder} holds an unfinished run of other code; set {ON_CODE_CHANGE}=continue to continue it, "
                f"or {ON_CODE_CHANGE}=fresh to start again"
            )
        return content["state"]

    def roll_back(self) -> dict[str, Any]:
        """Return the state of the last intact checkpoint at a fixed turn, and drop rows and checkpoints after it.

        Raises CheckpointError if there is none.
        """
        self.wait()
        files = self.checkpoints(only_periodic=True)
        if (content := self._load_last(files)) is None:
            raise CheckpointError(f"{self.folder}: there is no checkpoint to roll back to; lower the learning rates")
        for later in self.checkpoints():
            if later.name > files[-1].name:
                remove_sealed(later)
        self.rows.cut(content["rows"])
        return content["state"]

    def read_rows(self) -> list[Row]:
        """Return all rows up to the last checkpoint."""
        self.wait()
        return self.rows.read()

    def _load_last(self, files: list[Path]) -> dict[str, Any] | None:
        """Return the content of the last intact file. Damaged ones after it are named and removed."""
        damaged, content = list[Path](), None
        while files and content is None:
            if (content := self._read(files[-1])) is None:
                damaged.append(files.pop())
        if damaged and content is None:
            raise CheckpointError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(file.name for file in damaged)}), or the rows "
                f"in {ROWS} are; set {ON_CODE_CHANGE}=fresh to start again"
            )
        for file in damaged:
            report_damage(file, f"it is removed, and the run continues from {files[-1].name}")
            remove_sealed(file)
        return content

    def _read(self, file: Path) -> dict[str, Any] | None:
        """Return the content of a file; None if it or its rows are damaged, or if it belongs to another run."""
        if not is_intact(file):
            return None
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # torch raises many types for a file that it did not write
            return None
        if content.get("run") != self.run:
            return None
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{file} is a checkpoint of another version of onestep; finish the run with that version, or set "
                f"{ON_CODE_CHANGE}=fresh to start again"
            )
        return content if self.rows.fits(content["rows"]) else None

    def discard(self) -> None:
        """Remove the state, after the run has succeeded."""
        self.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
