"""Progress with an ETA: a bar on a terminal, plain lines in a log, and live logs of the numbers for a flow.

The flow that started the stage names a folder in the environment; without it nothing is written. Each training appends
lines to a file of its own there, which holds them until the flow has sent them to MLflow. No failure here stops or
delays a training. Of several processes, only the first one shows and logs progress.
"""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
LIVE_EVERY = 10  # counts between two rows of the live log; teacher_losses.csv has the same ones
# Environment variable: the folder for the live log of the stage that runs. Variables in it, such as one that names the
# stage, are expanded.
LIVE = "DMD_LIVE"
ENDING = ".jsonl"
PICTURES = "pictures"


class Progress:
    """A counter up to `total`, used as a context manager; `update` also takes numbers to print."""

    def __init__(self, title: str, total: int, unit: str, start: int = 0, is_live: bool = True) -> None:
        """is_live: whether the numbers of `update` go to the live log of that title; else the caller has its own."""
        self.is_visible = os.environ.get("RANK", "0") == "0"
        self.live = LiveLog(title) if is_live and self.is_visible else None
        self.title, self.total, self.unit = title, total, unit
        self.start, self.done = start, start
        self.began = self.printed = time.monotonic()
        on_terminal = self.is_visible and sys.stderr.isatty()
        self.bar: Any = tqdm(total=total, desc=title, unit=unit, initial=start, leave=True) if on_terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int = 1, **numbers: float) -> None:
        """Count n more and print the numbers with the next line."""
        self.done += n
        if numbers and self.live and (self.done % LIVE_EVERY == 0 or self.done >= self.total):
            self.live.write(self.done, numbers)
        if self.bar is not None:
            self.bar.update(n)
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in numbers.items()}, refresh=False)
            return
        if not self.is_visible:
            return
        now = time.monotonic()
        if now - self.printed >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.printed = now
            print(self._line(now, numbers), file=sys.stderr, flush=True)

    def _line(self, now: float, numbers: dict[str, float]) -> str:
        took = now - self.began
        left = took / max(self.done - self.start, 1) * (self.total - self.done)
        time_part = f"ETA {clock(left)}" if self.done < self.total else f"took {clock(took)}"
        text = "".join(f", {k} {v:.4g}" for k, v in numbers.items())
        return (
            f"{self.title}: {self.done}/{self.total} {self.unit} ({100 * self.done // self.total} %), {time_part}{text}"
        )


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class LiveLog:
    """The rows of one training, in a file of its name. Only the process that logs may have one.

    A line is an object with `time` (milliseconds since 1970), `step` and `numbers`.
    """

    def __init__(self, name: str) -> None:
        folder = _live_folder()
        self.file = folder / f"{name}{ENDING}" if folder else None
        self.out: TextIO | None = None

    def write(self, step: int, numbers: Mapping[str, Any]) -> None:
        """Append a row with those values that are numbers. After a failure nothing more is written."""
        if self.file is None:
            return
        known = {k: v for k, v in numbers.items() if _is_number(v)}
        try:
            self.out = self.out or _open(self.file)
            self.out.write(json.dumps({"time": int(1000 * time.time()), "step": step, "numbers": known}) + "\n")
            self.out.flush()
        except OSError as e:
            print(f"note: the curve of {self.file.stem} ends in MLflow: {e}", file=sys.stderr, flush=True)
            self.file = None


def is_watched() -> bool:
    """Whether a flow shows what this process logs."""
    return _live_folder() is not None


def show_picture(file: Path) -> None:
    """Hand a picture over, under the name of its file."""
    if folder := _live_folder():
        target = folder / PICTURES / file.name
        with contextlib.suppress(OSError):  # stage `train` also writes it to its output
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{target.name}")
            shutil.copyfile(file, part)
            part.replace(target)


def _live_folder() -> Path | None:
    folder = os.environ.get(LIVE)
    return Path(os.path.expandvars(folder)) if folder else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _open(file: Path) -> TextIO:
    """Open the file for more rows, behind the line that a killed process may have left unfinished."""
    file.parent.mkdir(parents=True, exist_ok=True)
    out = file.open("a")
    if out.tell() and not _ends_with_newline(file):
        out.write("\n")
    return out


def _ends_with_newline(file: Path) -> bool:
    with file.open("rb") as content:
        content.seek(-1, os.SEEK_END)
        return content.read() == b"\n"
