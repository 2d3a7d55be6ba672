"""A teacher with more noise levels than its scheduler has: the same network at times between them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from dmd.config import Params, load_params
from dmd.data.splits import DIGIT_NAMES
from dmd.diffusion.process import process_of
from dmd.distillation.lora import student
from dmd.distillation.setup import times_of_levels
from dmd.errors import ConfigError, TeacherError
from dmd.generator.export import export_generator, pipeline_arguments
from dmd.generator.generator import Generator, load_generator
from dmd.samplers.ddim import ddim
from dmd.teachers.levels import own_levels, set_levels
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.hub_folders import hub_folder

COUNT = 100_000
GIVEN = [0.9991, 0.93707, 0.83333, 0.62411]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SD3, a flow of 1,000 levels with a shift of 3."""
    return hub_folder("sd3", tmp_path_factory.mktemp("hub") / "sd3")


@pytest.fixture
def fine(folder: Path) -> Teacher:
    """Return the teacher with COUNT levels."""
    teacher = load_teacher(folder, CPU, 2.0, CAPTIONS)
    set_levels(teacher, COUNT)
    return teacher


def test_times_lie_between_those_of_the_scheduler_and_the_network_gets_them(folder: Path, fine: Teacher) -> None:
    coarse = load_teacher(folder, CPU, 2.0, CAPTIONS)
    every = torch.arange(1000)
    own = (every + 1) * (COUNT // 1000) - 1  # the scheduler's levels among the new ones
    process, before = fine.guided.process, coarse.guided.process
    assert (process.timesteps, before.timesteps, own_levels(fine)) == (COUNT, 1000, 1000)
    assert student(fine.denoiser, 2, 0).process.timesteps == COUNT
    for name in ("alpha", "sigma", "time"):
        torch.testing.assert_close(getattr(process, name)(own), getattr(before, name)(every), rtol=1e-6, atol=1e-7)
    assert process.time_grid.unique().numel() > 50 * 1000
    x, y = torch.randn(2, *fine.shape), torch.tensor([3, 7])
    t = torch.tensor([249, 999])
    with torch.no_grad():
        torch.testing.assert_close(fine.guided(x, own[t], y), coarse.guided(x, t, y), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ddim(fine.guided, x, 4, y), ddim(coarse.guided, x, 4, y), rtol=1e-4, atol=1e-4)
        between = fine.guided(x, own[t] - COUNT // 2000, y)  # half a level of the scheduler below
    assert not torch.allclose(between, coarse.guided(x, t, y), rtol=1e-6, atol=1e-6)


def test_the_schedule_of_edm_has_levels_between_and_that_of_eps_has_none(params: Params, tmp_path: Path) -> None:
    from diffusers import EDMEulerScheduler

    scheduler = EDMEulerScheduler()
    fine, coarse = process_of(scheduler, levels=3997), process_of(scheduler)
    torch.testing.assert_close(fine.sigma_grid[::4], coarse.sigma_grid, rtol=1e-9, atol=1e-12)
    teacher = load_teacher(hub_folder("sd", tmp_path / "sd"), CPU, captions=CAPTIONS)
    with pytest.raises(
        ValueError, match="the network of a PNDMScheduler knows its 1000 times alone; set it to teacher"
    ):
        set_levels(teacher, COUNT)


def test_a_generator_keeps_the_exact_levels_of_its_list(fine: Teacher, tmp_path: Path) -> None:
    """After its export, in this project and in the stock pipeline; the scheduler's config carries the list."""
    changes = {"method.steps": 4, "method.levels.count": COUNT, "method.levels.after_shift": GIVEN}
    cfg = load_params(ROOT / "params.yaml", changes).method
    times = times_of_levels(cfg, fine.denoiser.process)
    assert fine.denoiser.process.sigma_grid[list(times)].tolist() == pytest.approx(GIVEN, abs=2e-5)
    generator = Generator(fine.denoiser, times, fine.shape, DIGIT_NAMES, fine.codec, "ode")
    export_generator(generator, fine, tmp_path / "generator")
    back = load_generator(tmp_path / "generator", CPU)
    z, y = torch.randn(1, *fine.shape), torch.tensor([3])
    with torch.no_grad():
        ours = generator.sampler().sample(z, y)
        assert back.plan() == generator.plan() and torch.equal(back.sampler().sample(z, y), ours)
    pipe: Any = DiffusionPipeline.from_pretrained(tmp_path / "generator")
    call = pipeline_arguments(generator, fine)
    assert call["sigmas"] == pipe.scheduler.config["_sigmas"]
    theirs = pipe(prompt=CAPTIONS[3], latents=z, output_type="pt", **call).images
    torch.testing.assert_close(((ours + 1) / 2).clamp(0, 1), theirs, rtol=1e-4, atol=1e-4)


def test_damaged_levels_are_one_line(fine: Teacher, tmp_path: Path) -> None:
    generator = Generator(fine.denoiser, (COUNT - 1,), fine.shape, DIGIT_NAMES, fine.codec)
    export_generator(generator, fine, tmp_path / "generator")
    file = tmp_path / "generator" / "generator.json"
    about = json.loads(file.read_text())
    assert about["levels"] == COUNT
    for levels, words in ((10**12, "less than or equal to 1000000"), (1000, r"timesteps \[99999\] are not indices")):
        file.write_text(json.dumps(about | {"levels": levels}))
        with pytest.raises(TeacherError, match=words):
            load_generator(tmp_path / "generator", CPU)


def test_an_index_of_the_generator_excludes_a_count_of_levels() -> None:
    with pytest.raises(ConfigError, match=r"method.generator_timestep: excludes levels; set it to auto"):
        load_params(ROOT / "params.yaml", {"method.levels.count": COUNT, "method.generator_timestep": 399})
