"""The events of a training that went wrong, in divergence.json beside its pictures; without events, no file exists."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from dmd.storage.files import write_text

FILE = "divergence.json"


class Event(TypedDict):
    """A time at which a training went wrong."""

    turn: int  # generator turns done before
    problem: str  # what went wrong, with network, turn, step and value
    action: str  # what the run did: it rolled back, or ended


def write_events(events: Sequence[Event], folder: Path) -> list[Path]:
    """Write events to a file in `folder` and return its path in a list; without events, write nothing and return []."""
    if not events:
        return []
    write_text(folder / FILE, json.dumps(list(events), indent=2) + "\n")
    return [folder / FILE]


def read_events(folder: Path) -> list[Event]:
    """Return the events of the training whose records are in `folder`; none if it has no file of events."""
    file = folder / FILE
    return json.loads(file.read_text()) if file.exists() else []


def describe(event: Event) -> str:
    """Return an event as a sentence."""
    return f"{event['problem']}: {event['action']}"
