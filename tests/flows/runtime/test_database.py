"""The databases of MLflow and Prefect are whole after a kill, and one that cannot be used is named with the remedy."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from dmd.errors import UserError
from flows.runtime import database
from flows.runtime.database import MLFLOW, PREFECT, Tool, prepare_database
from tests.helpers.projects import ROOT
from tests.helpers.servers import eventually

pytestmark = pytest.mark.slow

PREPARE = """
import sys
from pathlib import Path
from flows.runtime.database import MLFLOW, PREFECT, prepare_database
prepare_database(Path(sys.argv[1]), {"mlflow": MLFLOW, "prefect": PREFECT}[sys.argv[2]])
"""


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(statement)


def revision(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A database of each tool."""
    files = {tool.package: tmp_path_factory.mktemp(tool.package) / "x.db" for tool in (MLFLOW, PREFECT)}
    prepare_database(files["mlflow"], MLFLOW)
    prepare_database(files["prefect"], PREFECT)
    return files


@pytest.fixture(params=[MLFLOW, PREFECT], ids=["mlflow", "prefect"])
def tool(request: pytest.FixtureRequest) -> Tool:
    return request.param


@pytest.fixture
def file(stored: dict[str, Path], tool: Tool, tmp_path: Path) -> Path:
    """A copy of the database of a tool, without its marker."""
    return Path(shutil.copy(stored[tool.package], tmp_path / "x.db"))


def test_a_database_of_the_installed_version_is_left_alone(
    file: Path, tool: Tool, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file.read_bytes()
    prepare_database(file, tool)
    assert file.read_bytes() == before and (file.parent / "x.db.version").is_file()
    monkeypatch.setattr(database, "_migrate", lambda *_: pytest.fail("the marker says that nothing is to be done"))
    prepare_database(file, tool)
    assert not list(file.parent.glob(".*"))  # no copy is left behind


def test_a_kill_during_the_creation_leaves_nothing_half_made(tool: Tool, tmp_path: Path) -> None:
    file, copy = tmp_path / "x.db", tmp_path / ".x.db.new"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for size in (1, 200_000):
        process = subprocess.Popen(
            [sys.executable, "-c", PREPARE, str(file), tool.package], env=env, start_new_session=True
        )
        assert eventually(lambda least=size: copy.exists() and copy.stat().st_size >= least, 120)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not file.exists()
    prepare_database(file, tool)
    assert revision(file) and not copy.exists()


def test_the_beginning_of_a_database_is_made_anew(file: Path, tool: Tool, capsys: pytest.CaptureFixture[str]) -> None:
    """Earlier versions of this project left such a file behind: its tables are newer than its revision."""
    newest = revision(file)
    older = {"mlflow": "89d4b8295536", "prefect": "9725c1cbee35"}[tool.package]
    change(file, f"UPDATE alembic_version SET version_num = '{older}'")
    prepare_database(file, tool)
    assert revision(file) == newest
    assert f"note: {file} was not whole and held nothing; it is made anew" in capsys.readouterr().err


def test_a_database_of_another_version_with_content_is_kept_and_named(file: Path, tool: Tool) -> None:
    if tool is MLFLOW:
        MlflowClient(f"sqlite:///{file}").create_registered_model("kept")
    else:
        columns = "id, created, updated, name, state_type, run_count, expected_start_time, flow_id"
        change(file, "PRAGMA foreign_keys = OFF")
        change(file, "INSERT INTO flow (id, name) VALUES ('1', 'f')")
        change(file, f"INSERT INTO flow_run ({columns}) VALUES ('1', 0, 0, 'r', 'COMPLETED', 1, 0, '1')")
    change(file, "UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = file.read_bytes()
    with pytest.raises(UserError) as e:
        prepare_database(file, tool)
    text = str(e.value)
    assert f"cannot use the database {file}" in text and "ffffffffffff" in text and "move the file away" in text
    assert "\n" not in text and file.read_bytes() == before


def test_a_file_that_is_no_database_is_kept_and_named(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("something else\n" * 100)
    with pytest.raises(UserError, match=r"x\.db .it is no sqlite database"):
        prepare_database(tmp_path / "x.db", tool)
    assert (tmp_path / "x.db").read_text().startswith("something else")


def test_an_empty_file_is_no_database_yet(stored: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "x.db").touch()
    prepare_database(tmp_path / "x.db", MLFLOW)
    assert revision(tmp_path / "x.db") == revision(stored["mlflow"])
