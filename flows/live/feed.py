"""Reads the rows that a training appends to its live log."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

CHUNK = 2**20  # bytes read at once
MOST_SHOWN = 1000  # points of a curve that are kept to be drawn; of more, every second one is dropped


class Row(NamedTuple):
    """The numbers of a training at a step."""

    time: int  # milliseconds since 1970
    step: int
    numbers: dict[str, float]


@dataclass
class Curve:
    """The points of one column that are kept to be drawn, evenly spaced."""

    points: dict[int, float] = field(default_factory=dict)  # step -> value
    stride: int = 1  # values of the column for each point that is kept
    count: int = 0  # values so far

    def add(self, step: int, value: float) -> None:
        """Add a value; its step is higher than those before it."""
        if self.count % self.stride == 0:
            self.points[step] = value
        self.count += 1
        if len(self.points) > MOST_SHOWN:
            self.points, self.stride = dict(list(self.points.items())[::2]), 2 * self.stride

    def go_back(self, step: int) -> None:
        """Drop the points from a step on."""
        self.points = {earlier: value for earlier, value in self.points.items() if earlier < step}


@dataclass
class Feed:
    """The live log of one training, and the part of it that MLflow holds."""

    file: Path
    group: str  # start of the names of its metrics
    position: int = 0  # bytes that are sent
    sent: dict[int, int] = field(default_factory=dict)  # step -> hash of the last numbers that were sent for it
    # Each column has a curve of its own: a column with few values, such as a validation score, keeps all of them.
    curves: dict[str, Curve] = field(default_factory=dict)
    last: int = -1  # step of the last row
    count: int = 0  # rows that were accepted

    @classmethod
    def resume(cls, file: Path, position: int) -> "Feed":
        """The log of a training whose first `position` bytes an earlier process has sent."""
        stage, name = file.parent.name, file.stem
        feed = cls(file, f"{stage}/" if name == stage else f"{stage}/{name}.")
        while feed.position < position and (part := feed.read(min(CHUNK, position - feed.position))):
            feed.accept(*part)
        return feed

    def read(self, most: int = CHUNK) -> tuple[list[Row], int] | None:
        """The next rows, and the position after them; None without a further complete line. most: bytes to read."""
        with self.file.open("rb") as content:
            content.seek(self.position)
            data = content.read(most)
        data = data[: data.rfind(b"\n") + 1]
        return (list(_parse(data)), self.position + len(data)) if data else None

    def choose_new(self, rows: list[Row]) -> list[Row]:
        """The rows that MLflow does not hold: a training that resumes repeats the rows after its checkpoint."""
        return [row for row in rows if self.sent.get(row.step) != _hash(row)]

    def accept(self, rows: list[Row], position: int) -> None:
        """Note that MLflow holds these rows, which end at a position of the file."""
        for row in self.choose_new(rows):
            self._show(row)
            self.sent[row.step] = _hash(row)
        self.position = position

    def _show(self, row: Row) -> None:
        if row.step <= self.last:  # the training went back
            for curve in self.curves.values():
                curve.go_back(row.step)
        for column, value in row.numbers.items():
            self.curves.setdefault(column, Curve()).add(row.step, value)
        self.last = row.step
        self.count += 1

    def thin_table(self) -> pd.DataFrame:
        """The points of the curves by their step, to be drawn."""
        return pd.DataFrame({name: pd.Series(curve.points, dtype=float) for name, curve in self.curves.items()})

    def table(self) -> pd.DataFrame:
        """The numbers that MLflow holds, by their step; of a step that came more than once, the last ones."""
        parts, reader = list[pd.DataFrame](), Feed(self.file, self.group)
        while reader.position < self.position and (part := reader.read(min(CHUNK, self.position - reader.position))):
            rows, reader.position = part
            parts.append(pd.DataFrame([row.numbers for row in rows], index=[row.step for row in rows]))
        table = pd.concat(parts or [pd.DataFrame()])
        return table.loc[~table.index.duplicated(keep="last")]


def metric_values(group: str, row: Row) -> Iterator[tuple[str, float]]:
    """Names and values of the metrics of a row."""
    for column, value in row.numbers.items():
        yield f"{group}{column}", float(value)


def _parse(data: bytes) -> Iterator[Row]:
    for line in data.splitlines():
        try:
            content: Mapping[str, Any] = json.loads(line)
            yield Row(int(content["time"]), int(content["step"]), dict(content["numbers"]))
        except (ValueError, KeyError, TypeError):  # a process that was killed left the line unfinished
            continue


def _hash(row: Row) -> int:
    return hash(frozenset(row.numbers.items()))
