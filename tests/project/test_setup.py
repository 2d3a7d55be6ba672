"""scripts/setup.sh gives errors of one line before any work, keeps a stamp, and takes torch from another index."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import time
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers.projects import ROOT

TOOLS = (
    *("sh", "awk", "cat", "cp", "date", "df", "dirname", "du", "find"),
    *("git", "grep", "head", "mkdir", "mv", "rm", "tail", "tr"),
)
LOCK = """\
# a comment
onlyhere==1.0
    # via torch
nvidia-nothing==1.0 ; sys_platform == 'linux'
cuda-nothing==1.0
torch==2.0
torchvision==1.0
triton==1.0
"""


@dataclass(frozen=True)
class Repo:
    """A temporary clone with its own PATH, whose tools can be replaced."""

    root: Path
    bin: Path

    def shim(self, name: str, script: str) -> None:
        (self.bin / name).unlink(missing_ok=True)
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def python(self, prelude: str) -> None:
        """Replace python3 by one whose probes (`python3 -c`) run `prelude` first."""
        self.shim("python3", f"""[ "$1" = -c ] || exit 99\nexec {sys.executable} -c "import sys\n{prelude}\n$2" """)

    def setup(self, **variables: str) -> subprocess.CompletedProcess[str]:
        shell = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "GIT_", "PYTHON", "TORCH", "LOCK"))}
        offline = {"PATH": str(self.bin), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
        index = {"PIP_INDEX_URL": (self.root / "index").as_uri()}
        return subprocess.run(
            ["sh", "scripts/setup.sh"],
            cwd=self.root,
            env={**shell, **offline, **index, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def source(self, module: str) -> str:
        """The index that an installed stand-in module came from; empty if it is not installed."""
        files = list((self.root / ".venv").glob(f"lib/python*/site-packages/{module}.py"))
        return files[0].read_text().strip() if files else ""


def wheel(folder: Path, name: str, version: str, source: str) -> None:
    """Write a wheel with one module, which holds the name of the index it comes from."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {f: base64.urlsafe_b64encode(hashlib.sha256(t.encode()).digest()).rstrip(b"=") for f, t in files.items()}
    record = "".join(f"{f},sha256={d.decode()},{len(files[f])}\n" for f, d in digests.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{info}/RECORD": record + f"{info}/RECORD,,\n"}.items():
            archive.writestr(file, text)
    links = "".join(f'<a href="{w.name}">{w.name}</a>' for w in folder.glob("*.whl"))
    (folder / "index.html").write_text(f"<!doctype html><html><body>{links}</body></html>")


@pytest.fixture(scope="module")
def venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment, created once per session because it takes seconds."""
    folder = tmp_path_factory.mktemp("made") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


@pytest.fixture
def repo(tmp_path: Path, venv: Path) -> Repo:
    root, tools = tmp_path / "a clone", tmp_path / "bin"
    (root / "scripts").mkdir(parents=True)
    tools.mkdir()
    shutil.copy(ROOT / "scripts/setup.sh", root / "scripts")
    (root / "requirements.lock").write_text(LOCK)
    for tool in TOOLS:
        where = shutil.which(tool)
        assert where, tool
        (tools / tool).symlink_to(where)
    clone = Repo(root, tools)
    clone.shim("python3", f'[ "$2" = venv ] || exec {sys.executable} "$@"\ncp -a {venv} "$4"')
    subprocess.run(["git", "init", "-q", root], check=True)
    return clone


def check_error(repo: Repo, line: str, **variables: str) -> None:
    """Check that setup.sh fails with one line on stderr and nothing on stdout, and creates no environment."""
    result = repo.setup(**variables)
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1 and line in result.stderr, result.stderr
    assert not (repo.root / ".venv").exists()


def test_python_missing(repo: Repo) -> None:
    (repo.bin / "python3").unlink()
    check_error(repo, "Python is missing")


@pytest.mark.parametrize(("version", "words"), [("3, 9", "too old"), ("3, 10", "too old"), ("3, 14", "too new")])
def test_python_out_of_range(repo: Repo, version: str, words: str) -> None:
    repo.python(f"sys.version_info = ({version}, 0, 'final', 0)")
    check_error(repo, f"Python {version.replace(', ', '.')} is {words}")


def test_the_range_is_that_of_pyproject() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11,<3.14"


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_venv_module_missing(repo: Repo, module: str) -> None:
    repo.python(f"sys.modules['{module}'] = None")
    check_error(repo, "has no venv module")


def test_git_missing(repo: Repo) -> None:
    (repo.bin / "git").unlink()
    check_error(repo, "git is missing")


def test_not_a_work_tree(repo: Repo) -> None:
    shutil.rmtree(repo.root / ".git")
    check_error(repo, "not inside a git work tree")


@pytest.mark.parametrize(("free", "index", "enough"), [(8.5, "", False), (2.5, "given", False), (3.5, "given", True)])
def test_too_little_disk(repo: Repo, free: float, index: str, enough: bool) -> None:
    repo.shim("df", f"echo header; echo disk 99999999 1 {int(free * 2**20)} 1% /")
    wheel(repo.root / "given", "torch", "2.0", "source = 1")
    if enough:  # the next step calls the shim of python3, which creates no environment
        repo.python("pass")
        assert repo.setup(TORCH_INDEX=index).returncode == 99
    else:
        check_error(repo, f"too little disk: {int(free)} GB free", TORCH_INDEX=index)


def test_torch_index_that_does_not_exist(repo: Repo) -> None:
    check_error(repo, "neither the URL of an index nor a folder: nowhere", TORCH_INDEX="nowhere")


@pytest.mark.slow
def test_install_stamp_change_and_repair(repo: Repo) -> None:
    wheel(repo.root / "index/onlyhere", "onlyhere", "1.0", "first")
    lock = repo.root / "requirements.lock"
    lock.write_text("onlyhere==1.0\nabsent==1.0\n")
    failed = repo.setup()
    assert failed.returncode != 0 and "pip failed" in failed.stderr
    assert not (repo.root / ".venv/.installed").exists()

    lock.write_text("onlyhere==1.0\n")
    assert repo.setup().returncode == 0
    assert repo.source("onlyhere") == "first"
    stamp = (repo.root / ".venv/.installed").read_text().split()
    assert stamp == [hashlib.sha256(lock.read_bytes()).hexdigest()]

    begun = time.perf_counter()
    again = repo.setup(PIP_INDEX_URL="file:///nowhere")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert time.perf_counter() - begun < 1

    wheel(repo.root / "index/onlyhere", "onlyhere", "2.0", "second")
    lock.write_text("onlyhere==2.0\n")
    changed = repo.setup()
    assert changed.returncode == 0 and "up to 1 packages, only what is missing or changed" in changed.stdout
    assert repo.source("onlyhere") == "second"


@pytest.mark.slow
def test_torch_from_an_index_of_its_own(repo: Repo) -> None:
    """torch comes from a folder, which setup.sh remembers, then from an index, and again from the default index."""
    wheel(repo.root / "index/onlyhere", "onlyhere", "1.0", "pass")
    for place, version in (("wheels", "2.0+cpu"), ("pep503/torch", "2.0+cpu"), ("index/torch", "2.0")):
        wheel(repo.root / place, "torch", version, f"source = {place!r}")
    for place in ("wheels", "pep503/torchvision", "index/torchvision"):
        wheel(repo.root / place, "torchvision", "1.0", "pass")
    for name in ("nvidia_nothing", "cuda_nothing", "triton"):
        wheel(repo.root / "index" / name.replace("_", "-"), name, "1.0", "pass")

    wheel(repo.root / "old", "torch", "1.9", "pass")
    failed = repo.setup(TORCH_INDEX="old")
    assert failed.returncode != 0 and "torch==2.0" in failed.stderr and not repo.source("torch")
    assert not (repo.root / ".venv/.installed").exists()

    assert repo.setup(TORCH_INDEX="wheels").returncode == 0
    assert repo.source("torch") == "source = 'wheels'"
    assert repo.source("onlyhere") and not repo.source("nvidia_nothing") and not repo.source("triton")
    assert repo.setup().stdout == ""

    assert repo.setup(TORCH_INDEX=(repo.root / "pep503").as_uri().replace("%20", " ")).returncode == 0
    assert repo.source("torch") == "source = 'pep503/torch'"

    assert repo.setup(TORCH_INDEX="").returncode == 0
    assert repo.source("torch") == "source = 'index/torch'"
    assert repo.source("nvidia_nothing") and repo.source("cuda_nothing") and repo.source("triton")


@pytest.mark.slow
def test_a_file_whose_hash_is_not_in_the_lock_is_refused(repo: Repo) -> None:
    """pip's settings name an index, so that hashes are compared on demand only; torch of TORCH_INDEX has none."""
    wheel(repo.root / "index/onlyhere", "onlyhere", "1.0", "as locked")
    for name in ("torch", "torchvision"):
        wheel(repo.root / "wheels", name, "2.0", "pass")
    (file,) = (repo.root / "index/onlyhere").glob("*.whl")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    lines = (
        *("onlyhere==1.0 \\", f"    --hash=sha256:{'0' * 64} \\", f"    --hash=sha256:{digest}", "    # via nothing"),
        *("torch==2.0 \\", f"    --hash=sha256:{'1' * 64}", "torchvision==2.0 \\", f"    --hash=sha256:{'1' * 64}"),
    )
    (repo.root / "requirements.lock").write_text("\n".join(lines) + "\n")
    changed = repo.setup(HASHES="required", TORCH_INDEX="wheels")
    assert changed.returncode == 0 and "hashes are not checked" not in changed.stdout, changed.stderr
    assert repo.source("onlyhere") == "as locked"

    shutil.rmtree(repo.root / ".venv")
    wheel(repo.root / "index/onlyhere", "onlyhere", "1.0", "swapped")
    refused = repo.setup(HASHES="required", TORCH_INDEX="wheels")
    assert refused.returncode != 0 and "DO NOT MATCH THE HASHES" in refused.stderr, refused.stderr
    assert not repo.source("onlyhere")
    unchecked = repo.setup(TORCH_INDEX="wheels")
    assert unchecked.returncode == 0 and "pip is set up with index-url: hashes are not checked" in unchecked.stdout
    assert repo.source("onlyhere") == "swapped"
    unknown = repo.setup(HASHES="some", TORCH_INDEX="")
    assert "HASHES is some: use required or none" in unknown.stderr


def test_every_package_of_the_lock_has_hashes() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    packages = [i for i, line in enumerate(lines) if line[:1].isalnum()]
    assert len(packages) > 200 and all(lines[i + 1].startswith("    --hash=sha256:") for i in packages)
