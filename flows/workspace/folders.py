"""Folders of the project that users write files into."""

from pathlib import Path

PRESETS = Path("experiments/presets")
