"""The reference of params.yaml names every key, and its command prints it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dmd.config import Params
from dmd.config_errors import fields, subgroup
from dmd.config_reference import main, reference
from tests.helpers.projects import ROOT


def all_keys(group: Any, prefix: str = "") -> set[str]:
    """Dotted keys of all values below a group of the schema."""
    names: set[str] = set()
    for name, field in fields(group).items():
        inner = subgroup(field)
        names |= {prefix + name} if inner is None else all_keys(inner, f"{prefix}{name}.")
    return names


def test_the_reference_has_every_key_with_its_meaning_and_value(params: Params) -> None:
    sections = reference(params)
    listed = {key.name: key for section in sections for key in section.keys}
    assert set(listed) == all_keys(Params) and all(section.title for section in sections)
    assert all(key.meaning and key.allowed for key in listed.values())
    assert (listed["train.batch_size"].value, listed["train.batch_size"].allowed) == ("64", "integer >= 1")
    assert listed["runtime.device"].allowed == "auto | cpu | cuda"
    assert listed["data.test"].allowed == "integer >= 1 | all"
    assert listed["data.max_bad"].allowed == "number >= 0 and < 1"
    assert listed["teacher.vae.channels"].allowed == "list of integer >= 1, at least 2"
    assert listed["register.gate.measures"].value == '["fd", "recall"]'


def test_the_reference_is_printed_as_text_and_as_markdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([]) == 0
    meaning = "critic turns per generator turn of distribution matching; those before it are"
    expected = f"  method.critic_turns = 5   (integer >= 1)\n      {meaning}\n      train.warm_start.critic_turns\n"
    assert expected in capsys.readouterr().out
    assert main(["--markdown"]) == 0
    row = f"| `method.critic_turns` | `5` | integer >= 1 | {meaning} train.warm_start.critic_turns |"
    assert row in capsys.readouterr().out
    assert main(["--params", str(tmp_path / "no.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_reader_of_the_reference_may_end_before_it() -> None:
    """It ends without a traceback, as for `python -m dmd.config | head`."""
    command = [sys.executable, "-m", "dmd.config"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # long before the first line
        assert (process.stderr.read(), process.wait()) == ("", 0)
