"""Progress with an ETA: a bar on a terminal, plain lines in a log."""

import sys
import time
from typing import Any

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A counter up to `total`, used as a context manager; `update` also takes numbers to print."""

    def __init__(self, title: str, total: int, unit: str, start: int = 0) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.start, self.done = start, start
        self.began = self.printed = time.monotonic()
        on_terminal = sys.stderr.isatty()
        self.bar: Any = tqdm(total=total, desc=title, unit=unit, initial=start, leave=True) if on_terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, n: int = 1, **numbers: float) -> None:
        """Count n more and print the numbers with the next line."""
        self.done += n
        if self.bar is not None:
            self.bar.update(n)
            self.bar.set_postfix({k: f"{v:.4g}" for k, v in numbers.items()}, refresh=False)
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
