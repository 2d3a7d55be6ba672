"""The project has no wheel to publish: pip builds from pyproject.toml only the dependencies, and no module."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser

import pytest

from tests.helpers.projects import ROOT

NEEDED = ("pyproject.toml", "README.md", "LICENSE")  # to build the metadata


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of the source, built without network and without a change to the clone."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in NEEDED:
        shutil.copy(ROOT / name, source / name)
    for package in ("dmd", "evaluation", "stages", "flows"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    argv = [sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", str(out), str(source)]
    subprocess.run(argv, check=True, capture_output=True, text=True)
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_installs_no_module(wheel: zipfile.ZipFile) -> None:
    assert [name for name in wheel.namelist() if ".dist-info/" not in name] == []


def test_the_wheel_requires_the_dependencies_and_offers_the_extras(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (file,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    about = Parser().parsestr(wheel.read(file).decode())
    assert set(about.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    assert len([line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]) == len(
        project["dependencies"]
    )


def test_an_index_refuses_the_wheel(wheel: zipfile.ZipFile) -> None:
    (file,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
    assert any(c.startswith("Private ::") for c in Parser().parsestr(wheel.read(file).decode()).get_all("Classifier"))
