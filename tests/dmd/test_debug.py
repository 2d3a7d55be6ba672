"""--debug prints the traceback of an error that is otherwise one line, and every command has the option."""

import os
from collections.abc import Iterator

import pytest

from dmd.debug import DEBUG, CommandParser
from dmd.errors import UserError
from flows.runtime.command import run_command
from tests.helpers.projects import ROOT

SECRET = "s3cret-of-a-user"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the variable that the option sets."""
    monkeypatch.setenv(DEBUG, "")
    yield


def fail_in_a_library() -> None:
    raise KeyError(f"https://me:{SECRET}@host")


def command(*words: str) -> int:
    """Run a command that refuses a file, and hides the error of the library that it read the file with."""
    CommandParser().parse_args(words)

    def refuse() -> int:
        try:
            fail_in_a_library()
        except KeyError:
            raise UserError("a.json cannot be read") from None
        return 0

    return run_command(refuse)


def test_a_mistake_is_one_line_and_with_debug_its_traceback_comes_first(
    environment: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command() == 1
    assert capsys.readouterr().err == "error: a.json cannot be read\n"
    assert command("--debug") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "error: a.json cannot be read"
    assert "KeyError: 'https://***@host'" in lines, "the error that the message replaces, without the password"
    assert any("in fail_in_a_library" in line for line in lines) and not any(SECRET in line for line in lines)
    assert os.environ[DEBUG] == "1", "for the stages that the command starts"


def test_every_command_has_the_option() -> None:
    files = [file for folder in ("dmd", "evaluation", "flows", "stages") for file in (ROOT / folder).rglob("*.py")]
    own = {"dmd/debug.py", "dmd/config_reference.py"}  # the second one reads nothing that can be wrong
    without = {str(file.relative_to(ROOT)) for file in files if "ArgumentParser(" in file.read_text()}
    assert without - own == set()
    assert sum("CommandParser(" in file.read_text() for file in files) > 15
