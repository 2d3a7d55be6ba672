"""A copy of a result that cannot be written is one line, and leaves nothing behind."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows.pipeline import experiments
from flows.pipeline.experiments import keep_result
from flows.registry.result import GENERATOR


@pytest.mark.parametrize("tool", ["copy", "copytree"])
def test_a_full_disk_is_one_line(toy: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    for path in (*experiments.FILES, GENERATOR / "x"):
        (toy / path).parent.mkdir(parents=True, exist_ok=True)
        (toy / path).write_text("x")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_paths: Path) -> None:
        raise full if tool == "copy" else shutil.Error([("a", "b", str(full))])  # the class of copytree's errors

    monkeypatch.setattr(experiments.shutil, tool, fail)
    with pytest.raises(UserError, match=r"No space left on device.*run the same command again") as e:
        keep_result(toy, "run-abc")
    assert "\n" not in str(e.value) and not list((toy / experiments.FOLDER).iterdir())
