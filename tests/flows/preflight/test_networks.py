"""The checks that import torch run in a process of their own, and try a teacher before any data are prepared."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dmd.errors import ConfigError, TeacherError, UserError
from flows.pipeline.presets import load_preset
from flows.preflight import networks
from flows.preflight.networks import begin_checks, check_device, check_methods, finish_checks
from flows.preflight.run import Run
from flows.preflight.teachers import check_guidance, check_teachers
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT, environment
from tests.helpers.teachers.changes import SCHEDULER, UNET, Change, config, network, pixel_unet, weights
from tests.helpers.teachers.hub_folders import hub_folder


def test_a_device_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    on_gpu = with_values(run.params[0], runtime={"device": "cuda"})
    assert not list(check_device(run))
    with pytest.raises(UserError, match=r"^runtime\.device: 'cuda' is not available on this machine; use auto or cpu$"):
        list(check_device(replace(run, params=[*run.params, on_gpu])))


def test_processes_without_a_gpu_of_their_own_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those of stages that run count, and only those of this machine."""
    eight = {"launcher": "accelerate", "processes": 8}
    params = with_values(run.params[0], train=eight, runtime={"processes": 4})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    lines = list(check_device(replace(run, params=[params, params])))
    assert [line.partition(": ")[0] for line in lines] == ["runtime.processes", "train.processes"]
    assert lines[1] == (
        "train.processes: 8 processes of this machine need a GPU each, and it has 2; set train.processes to 2, or "
        "CUDA_VISIBLE_DEVICES to more GPUs"
    )
    assert not list(check_device(replace(run, params=[params], stages=frozenset({"data"}))))
    spread = with_values(params, train={**eight, "launcher_options": {"num_machines": 4}}, runtime={"processes": 2})
    assert not list(check_device(replace(run, params=[spread])))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert not list(check_device(replace(run, params=[params])))


def test_a_method_is_checked_only_if_it_runs(run: Run) -> None:
    of_critic = with_values(run.params[0], method={"name": "gdd"})  # its trunks are those of a critic, which it lacks
    assert not list(check_methods(run))
    both = replace(run, params=[*run.params, of_critic])
    with pytest.raises(ConfigError, match=r"^method\.gan\.trunks: gdd has no critic, so critic cannot train; use"):
        list(check_methods(both))
    assert not list(check_methods(replace(both, stages=frozenset({"data", "teacher"}))))


FAULTS: dict[str, tuple[Change, str]] = {
    "schedule": (config(SCHEDULER, beta_end=float("nan")), f"{SCHEDULER} gives coefficients that are NaN"),
    "weight": (weights("unet", lambda t: t.pop("conv_out.bias")), "has no weight conv_out.bias"),
    "size": (
        config(UNET, sample_size=16),
        "images of shape (1, 16, 16), but the data have (1, 8, 8)",
    ),
    "pass": (
        network("unet", pixel_unet(class_embed_type="timestep")),
        "given no labels, as its config has no num_",
    ),
}


def with_teacher(run: Run, folder: Path) -> Run:
    """The run with the teacher of a folder."""
    return replace(run, params=[with_values(run.params[0], teacher={"source": "folder", "folder": str(folder)})])


@pytest.mark.parametrize("kind", ["ddpm", "dit", "sd"])
def test_a_teacher_that_runs_is_accepted(kind: str, run: Run, tmp_path: Path) -> None:
    assert not list(check_teachers(with_teacher(run, hub_folder(kind, tmp_path / kind))))


@pytest.mark.parametrize("name", FAULTS)
def test_a_teacher_that_cannot_run_is_refused(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, fault = FAULTS[name]
    folder = hub_folder("ddpm", tmp_path / "ddpm")
    change(folder)
    bad = with_teacher(run, folder)
    with pytest.raises(TeacherError, match=re.escape(fault)):
        list(check_teachers(bad))
    assert not list(check_teachers(replace(bad, stages=frozenset({"data"}))))
    monkeypatch.setattr("flows.preflight.teachers.MOST_BYTES", 1)
    assert not list(check_teachers(bad))


def test_decoupled_is_refused_for_a_teacher_that_takes_guidance_as_an_input(run: Run, tmp_path: Path) -> None:
    """The configuration is that of a preset, or of a folder; the teacher itself is fetched later."""
    values = {"method": {"name": "decoupled"}, "guidance": {"scale": 3.5}}
    found = dict[str, list[str]]()
    for preset in ("flux1_dev", "sd35_medium"):
        changes = load_preset(ROOT, preset).changes
        teacher = {key: changes[f"teacher.{key}"] for key in ("source", "hub_id", "revision")}
        plain = with_values(run.params[0], teacher=teacher, guidance=values["guidance"])
        of_preset = replace(run, root=ROOT, params=[with_values(plain, **values)], preset=preset)
        found[preset] = list(check_guidance(of_preset))
        assert not list(check_guidance(replace(of_preset, params=[plain])))
        assert not list(check_guidance(replace(of_preset, stages=frozenset({"teacher"}))))
    words = "method.name: decoupled needs predictions without guidance, but this teacher takes guidance.scale as an"
    assert not found["sd35_medium"] and [line[: len(words)] for line in found["flux1_dev"]] == [words]
    missing = with_values(run.params[0], teacher={"source": "hub", "hub_id": "a/b", "revision": "c" * 40}, **values)
    assert not list(check_guidance(replace(run, params=[missing])))


def test_a_command_and_its_flow_ask_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes to the process and comes back as lines; an equal run is answered without a second process."""
    assert Run.from_json(run.to_json()) == run
    bad = with_teacher(run, run.root / "none")
    begin_checks(bad)
    (line,) = finish_checks(bad).lines
    assert str(run.root / "none") in line
    monkeypatch.setattr(networks.subprocess, "Popen", pytest.fail)
    begin_checks(bad)
    assert finish_checks(Run.from_json(bad.to_json())).lines == [line]


def test_a_process_that_fails_is_an_error_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"^the checks of networks ended with exit code 1; run again$"):
        finish_checks(replace(run, at_once=7))


@pytest.mark.slow
def test_a_run_of_the_first_stage_alone_is_checked_without_diffusers(run: Run) -> None:
    """The import of diffusers takes as long as the stage."""
    code = (
        "import sys; from pathlib import Path; from dmd.config import load_params; from flows.preflight.run import Run;"
        "from flows.preflight.networks import CHECKS; from flows.preflight.run import find_mistakes;"
        "run = Run(Path(sys.argv[1]), [load_params(Path('params.yaml'))], frozenset({'data'}), True, publishes=False);"
        "assert not find_mistakes(CHECKS, run).lines; sys.exit('diffusers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run.root)], cwd=ROOT, env=environment(), check=True)
