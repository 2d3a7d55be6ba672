"""Before its first stage, a run checks all that its end needs; each mistake is one line with the remedy."""

import socket
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from dmd.config import Params
from dmd.errors import ConfigError, UserError
from flows.preflight import checks
from flows.preflight.checks import check_before
from flows.preflight.places import check_places, list_places
from flows.preflight.run import Run
from flows.registry.store import check_reachable
from flows.runtime.reach import find_silence
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT, environment
from tests.helpers.servers import free_port


def test_every_mistake_is_listed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_run: Run) -> list[str]:
        raise UserError("two\nthree")

    monkeypatch.setattr(checks, "check_result", pytest.fail)
    monkeypatch.setattr(checks, "CHECKS", (lambda _run: ["one"], refuse, lambda _run: []))
    with pytest.raises(UserError, match=r"^one\ntwo\nthree$"):
        check_before(run)


def test_a_locale_that_is_not_utf_8_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(checks.check_encoding(run))
    monkeypatch.setattr("flows.preflight.checks.locale.getencoding", lambda: "ISO-8859-1")
    (line,) = checks.check_encoding(run)
    assert line == "the locale's encoding is ISO-8859-1; export PYTHONUTF8=1 and run again"


def test_a_tracker_without_its_package_is_named(run: Run, params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(checks.check_trackers(run))
    tracked = replace(run, params=[with_values(params, register_={"trackers": ["tensorboard", "wandb"]})])
    monkeypatch.setattr("flows.preflight.checks.importlib.util.find_spec", lambda name: name == "wandb" or None)
    (line,) = checks.check_trackers(tracked)
    assert line.startswith("register.trackers: tensorboard is not installed; pip install '.[tensorboard]'")


def test_a_socks_proxy_without_its_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert not list(checks.check_proxy(run))
    monkeypatch.setenv("all_proxy", "socks5h://user:word@127.0.0.1:9")
    monkeypatch.setattr("flows.preflight.checks.importlib.util.find_spec", lambda _name: None)
    (line,) = checks.check_proxy(run)
    assert line.endswith("is a SOCKS proxy; pip install 'httpx[socks]', or unset ALL_PROXY") and "word" not in line


def test_a_device_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    on_gpu = with_values(run.params[0], runtime={"device": "cuda"})
    assert not list(checks.check_device(run))
    with pytest.raises(UserError, match=r"^runtime\.device: 'cuda' is not available on this machine; use auto or cpu$"):
        list(checks.check_device(replace(run, params=[*run.params, on_gpu])))


def test_processes_without_a_gpu_of_their_own_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of stages that run count, and only those of this machine."""
    eight = {"launcher": "accelerate", "processes": 8}
    params = with_values(run.params[0], train=eight, runtime={"processes": 4})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    lines = list(checks.check_device(replace(run, params=[params, params])))
    assert [line.partition(": ")[0] for line in lines] == ["runtime.processes", "train.processes"]
    assert lines[1] == (
        "train.processes: 8 processes of this machine need a GPU each, and it has 2; set train.processes to 2, or "
        "CUDA_VISIBLE_DEVICES to more GPUs"
    )
    assert not list(checks.check_device(replace(run, params=[params], stages=frozenset({"data"}))))
    spread = with_values(params, train={**eight, "launcher_options": {"num_machines": 4}}, runtime={"processes": 2})
    assert not list(checks.check_device(replace(run, params=[spread])))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not list(checks.check_device(replace(run, params=[params])))


def test_each_folder_that_the_run_writes_must_be_writable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(check_places(run)) and not list(check_places(replace(run, in_place=False)))
    names = {folder.relative_to(run.root).as_posix() for folder, *_ in list_places(run) if run.root in folder.parents}
    assert names == {"runs", ".dvc/cache", ".dvc/tmp", "artifacts", "reports", "runs/mlflow"}
    (run.root / "artifacts").write_text("")
    monkeypatch.setenv("DMD_SCRATCH", "/proc/scratch")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////proc/mlflow.db")
    lines = list(check_places(run))
    assert [line.partition(": ")[0] for line in lines] == ["/proc/scratch", str(run.root / "artifacts"), "/proc"]
    assert "or set DMD_SCRATCH to a folder that is" in lines[0] and "or set MLFLOW_TRACKING_URI" in lines[2]
    assert lines[1].endswith("is not a folder); make it writable, or run in a copy of the project that is")


@pytest.mark.parametrize("scheme", ["http", "postgresql", "mysql+pymysql"])
def test_a_server_that_is_not_there_is_named_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{scheme}://127.0.0.1:{free_port()}/x"
    start = time.monotonic()
    with pytest.raises(
        UserError, match=r"^the MLflow server .*\(.*refused.*\): start it, or unset MLFLOW_TRACKING_URI$"
    ):
        check_reachable(address)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", address)
    with pytest.raises(UserError, match=r"unset MLFLOW_REGISTRY_URI$"):
        check_reachable("sqlite:///x.db")
    assert time.monotonic() - start < 5


def test_a_server_that_says_nothing_is_named_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.runtime.reach.TIMEOUT", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert find_silence(f"http://127.0.0.1:{silent.getsockname()[1]}", "/health") in ("timed out", "no answer")
        assert find_silence(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/db") is None
    assert find_silence("sqlite:////tmp/x.db") is None and find_silence("databricks") is None


def test_a_method_is_checked_only_if_it_runs(run: Run) -> None:
    of_critic = with_values(run.params[0], method={"name": "gdd"})  # its trunks are those of a critic, which it lacks
    assert not list(checks.check_methods(run))
    both = replace(run, params=[*run.params, of_critic])
    with pytest.raises(ConfigError, match=r"^method\.gan\.trunks: gdd has no critic, so critic cannot train; use"):
        check_before(both)
    assert not list(checks.check_methods(replace(both, stages=frozenset({"data", "teacher"}))))


@pytest.mark.slow
def test_a_run_of_the_first_stage_alone_is_checked_without_diffusers(run: Run) -> None:
    """Its import takes as long as the stage."""
    code = (
        "import sys; from pathlib import Path; from dmd.config import load_params; from flows.preflight.run import Run;"
        "from flows.preflight.checks import check_before; root = Path(sys.argv[1]);"
        "check_before(Run(root, [load_params(Path('params.yaml'))], frozenset({'data'}), True, publishes=False));"
        "import flows.pipeline.flow; sys.exit('diffusers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.root)], cwd=ROOT, env=environment(), check=True)
