"""A search continues after a kill or a full disk that has cut off the last line of its journal."""

import json
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from dmd.errors import UserError
from flows.tuning.journal import LOCK, repair


def count_trials(journal: Path, more: int = 0) -> int:
    """Open a study as flows.tuning.study does, add trials, and return their number."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name="a", load_if_exists=True)
    for _ in range(more):
        study.add_trial(optuna.trial.create_trial(value=1.0))
    return len(study.get_trials())


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    assert count_trials(tmp_path / "a.journal", 3) == 3
    return tmp_path / "a.journal"


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_line_that_is_cut_off_is_removed(journal: Path, cut: int) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines)[:-cut])
    note = repair(journal)
    assert note and "the last line was cut off" in note
    assert journal.read_bytes() == b"".join(lines[:-1]) and repair(journal) is None
    assert count_trials(journal, 1) == 3 and count_trials(journal) == 3


def test_optuna_itself_fails_on_such_a_file(journal: Path) -> None:
    """If Optuna repairs the line one day, the module can go."""
    journal.write_bytes(journal.read_bytes()[:-5])
    with pytest.raises(json.JSONDecodeError):
        count_trials(journal, 1)


def test_a_lock_that_was_left_behind_is_removed(journal: Path) -> None:
    """Optuna would wait for it for half a minute."""
    lock = journal.with_name(journal.name + LOCK)
    lock.symlink_to(journal)
    assert repair(journal) is None and not lock.is_symlink()


def test_a_damaged_line_is_named_and_the_file_kept(journal: Path) -> None:
    content = journal.read_bytes().replace(b"{", b"[", 1)
    journal.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.journal: line 1 is damaged; move the file away"):
        repair(journal)
    assert journal.read_bytes() == content


def test_there_need_be_no_journal(tmp_path: Path) -> None:
    assert repair(tmp_path / "none" / "a.journal") is None
