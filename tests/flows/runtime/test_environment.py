"""The environment of a company or of a container does not decide whether a run works."""

import getpass
import os
import subprocess
import urllib.request
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows.runtime.environment import DATABASE_URL, DEFAULTS, FOREIGN, bypass_proxy, set_defaults
from flows.runtime.git import check_owner, ensure_identity, git
from flows.runtime.home import FOLDERS, provide_home


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "127.0.0.1,localhost,::1"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost,::1"),
        ({"no_proxy": "corp.example,localhost", "NO_PROXY": "x"}, "corp.example,localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "*"}, None),
    ],
)
def test_requests_to_this_machine_bypass_a_proxy(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: str | None
) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:3128")
    bypass_proxy()
    bypass_proxy()
    assert os.environ.get("no_proxy") == expected and os.environ["NO_PROXY"] == (expected or "*")
    for host in ("127.0.0.1", "localhost"):
        assert urllib.request.proxy_bypass(host)
    assert bool(urllib.request.proxy_bypass("hub.example")) == (expected is None)


def test_without_a_git_user_experiments_have_an_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.setenv(f"GIT_{name}", "to be restored")
        monkeypatch.delenv(f"GIT_{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit = ["git", "-c", "user.useConfigOnly=true", "commit", "-q", "--allow-empty", "-m", "x"]
    assert subprocess.run(commit, cwd=tmp_path, capture_output=True, check=False).returncode != 0
    assert "onestep <onestep@localhost>" in (ensure_identity(tmp_path) or "")
    subprocess.run(commit, cwd=tmp_path, check=True)
    assert ensure_identity(tmp_path) is None


@pytest.mark.parametrize("given", [("me", "me@example.org"), ("me", None), (None, "me@example.org")])
def test_a_git_user_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: tuple[str | None, ...]) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        for part in ("NAME", "EMAIL"):
            monkeypatch.setenv(f"GIT_{role}_{part}", "to be restored")
            monkeypatch.delenv(f"GIT_{role}_{part}")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "config"))  # DVC's own git does not read this file
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for key, value in zip(("user.name", "user.email"), given, strict=True):
        if value:
            subprocess.run(["git", "config", "--global", key, value], cwd=tmp_path, check=True)
    assert (ensure_identity(tmp_path) is None) == all(given)
    assert os.environ["GIT_AUTHOR_NAME"] == os.environ["GIT_COMMITTER_NAME"] == (given[0] or "onestep")
    assert os.environ["GIT_COMMITTER_EMAIL"] == (given[1] or "onestep@localhost")


def test_variables_of_a_git_hook_and_of_an_mlflow_run_are_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for name in (*FOREIGN, *DEFAULTS, *FOLDERS, "NO_PROXY", "no_proxy", DATABASE_URL):
        monkeypatch.setenv(name, "/nowhere")
    assert git(tmp_path, "rev-parse", "--show-toplevel") is None
    set_defaults(tmp_path)
    assert git(tmp_path, "rev-parse", "--show-toplevel") == str(tmp_path)
    assert not {"GIT_DIR", "GIT_INDEX_FILE", "MLFLOW_RUN_ID"} & set(os.environ)


def test_tools_have_folders_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FOLDERS:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    (tmp_path / "home").touch()  # no folder can be made below a file, not even by root
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    provide_home(tmp_path)
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "prefect") and os.environ["MPLCONFIGDIR"] == "/mine"


def test_a_home_that_can_be_written_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in FOLDERS:
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    provide_home(tmp_path / "own")
    assert not set(FOLDERS) & set(os.environ)


def test_a_user_id_without_a_name_has_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}["no such uid"])
    provide_home(tmp_path)
    assert getpass.getuser() == f"uid{os.getuid()}"


def test_a_folder_of_another_user_is_named_with_gits_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    check_owner(tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    with pytest.raises(UserError, match=r"belongs to another user; to trust it: git config --global --add safe\."):
        check_owner(tmp_path)
