"""Licences, bill of materials and known vulnerabilities of the packages of the lock."""

import json
import os
from pathlib import Path

import pytest

from dmd.errors import UserError
from flows import packages as command
from flows.supply import audit as auditing
from flows.supply.packages import NOT_HERE, find_licence, format_licences, read_packages
from flows.supply.sbom import describe_packages
from tests.helpers.projects import ROOT

LOCK = """\
# a comment
torch==2.0 ; sys_platform == 'linux' \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via nothing
Not_Here==1.0 \\
    --hash=sha256:{a}
""".format(a="a" * 64, b="b" * 64)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "requirements.lock").write_text(LOCK)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    return tmp_path


def test_the_lock_is_read_with_hashes_and_licences(root: Path) -> None:
    torch, other = read_packages(root)
    assert (torch.name, torch.version, torch.hashes) == ("torch", "2.0", ("a" * 64, "b" * 64))
    assert "BSD" in torch.licence and other.licence == NOT_HERE
    last = format_licences([torch, other]).splitlines()[-1]
    assert last.startswith(f"{NOT_HERE}  ") and last.endswith("  Not_Here 1.0")
    (root / "requirements.lock").write_text("# a comment\n")
    with pytest.raises(UserError, match=r"requirements.lock lists no package: git checkout"):
        read_packages(root)
    (root / "requirements.lock").unlink()
    with pytest.raises(UserError, match=r"requirements.lock is missing: git checkout"):
        read_packages(root)


def test_every_package_of_the_project_has_a_licence() -> None:
    """Packages that are installed here declare one, or hold a file of it, but for an empty one of NVIDIA."""
    nameless = {p.name for p in read_packages(ROOT) if p.licence == "unknown"}
    assert nameless <= {"cuda-toolkit"}
    assert find_licence("numpy").startswith("BSD")


def test_the_bill_of_materials_names_every_package(root: Path) -> None:
    """It holds no time, so that the same lock gives the same file."""
    text = describe_packages(root, read_packages(root))
    assert text == describe_packages(root, read_packages(root))
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "onestep"
    torch, other = bill["components"]
    assert torch["purl"] == "pkg:pypi/torch@2.0" and other["purl"] == "pkg:pypi/not-here@1.0"
    assert [h["content"] for h in torch["externalReferences"][0]["hashes"]] == ["a" * 64, "b" * 64]
    assert "licenses" not in other


def test_an_audit_that_is_impossible_is_one_line(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(auditing.shutil, "which", lambda name: name)
    monkeypatch.setattr(auditing, "DATABASE", "http://127.0.0.1:9")
    code, text = auditing.audit(root)
    assert code == 0 and text.startswith("audit: not done, since the database") and "\n" not in text
    monkeypatch.setattr(auditing.shutil, "which", lambda name: None)
    assert auditing.audit(root) == (0, "audit: not done, since pip-audit is not installed; pipx install pip-audit")


def test_an_audit_reports_what_pip_audit_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """pip-audit is replaced by a program that prints its arguments."""
    (tmp_path / "pip-audit").write_text('#!/bin/sh\necho "$@"\nexit 1\n')
    (tmp_path / "pip-audit").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(auditing, "find_silence", lambda *address: None)
    code, text = auditing.audit(tmp_path)
    assert code == 1 and f"--requirement {tmp_path}/requirements.lock" in text and "--vulnerability-service osv" in text


def test_the_command_writes_and_prints(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(root)
    assert command.main(["licences"]) == 0 and "torch 2.0" in capsys.readouterr().out
    assert command.main(["sbom", "--out", "bill.json"]) == 0
    assert capsys.readouterr().out == "sbom: 2 packages in bill.json\n" and (root / "bill.json").is_file()
