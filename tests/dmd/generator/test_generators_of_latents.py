"""Generators of teachers on latents: cards, timesteps, folders and the registered model."""

import base64
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from mlflow.exceptions import MlflowException
from PIL import Image

from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES
from dmd.distillation.setup import times_of_levels
from dmd.errors import TeacherError
from dmd.families.family import embed_all
from dmd.families.pipelines import find_family
from dmd.generator.export import card, export_generator, pipeline_arguments
from dmd.generator.generator import Generator, load_generator
from dmd.generator.scheduler import check_exportable
from dmd.samplers.few_step import generate, step_times
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.hub_folders import CARDS
from tests.helpers.teachers.latent_teachers import export, latent_teacher
from tests.helpers.teachers.text_transformers import TRANSFORMERS, to_tokens


@pytest.fixture(params=["dit", "text_unet"])
def teacher(request: pytest.FixtureRequest, params: Params, tmp_path: Path) -> Teacher:
    return latent_teacher(params, request.param, tmp_path / "teacher")


@pytest.mark.slow
def test_the_code_of_the_cards_gives_this_projects_images(params: Params, tmp_path: Path) -> None:
    """The code runs in a process that cannot import this project."""
    generators: dict[Path, Generator] = {}
    for network in ("dit", "text_unet"):
        teacher = latent_teacher(params, network, tmp_path / network)
        for times in ((999,), (999, 749, 499, 249), (258,)):
            out = tmp_path / f"{network}_{len(times)}_{times[0]}"
            generators[out] = export(teacher, out, *times)
    subprocess.run([sys.executable, "-c", CARDS, *map(str, generators)], cwd=tmp_path, check=True, capture_output=True)
    for out, generator in generators.items():
        assert "dmd" not in (out / "README.md").read_text().split("```")[1]
        rng, times = torch.Generator().manual_seed(0), generator.times
        # The pipeline draws the noise of each step when it takes the step.
        z = torch.stack([torch.randn(1, 4, 4, 4, generator=rng) for _ in times], dim=1)
        noise = z if len(times) > 1 else z[:, 0]
        ours = generator.codec.decode(generate(generator.denoiser, noise, times, torch.tensor([0])))
        ours = ((ours.detach().clamp(-1, 1) + 1) * 127.5).round()[0, 0].numpy()
        theirs = np.load(out / "image.npy").astype(float)
        assert np.abs(theirs - ours).max() <= 1 and ours.std() > 1, out.name


def test_a_timestep_at_which_the_pipeline_of_a_transformer_cannot_start_is_an_error(teacher: Teacher) -> None:
    check_exportable(teacher, (399,))  # this schedule can be truncated
    flow = replace(teacher, pipeline=SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler()))
    check_exportable(flow, (999, 499))
    if teacher.captions:
        check_exportable(flow, (399,))  # Stable Diffusion's pipeline accepts timesteps
    else:
        with pytest.raises(TeacherError, match=r"method.generator_timestep: 399"):
            check_exportable(flow, (399,))


@pytest.mark.parametrize(("first", "steps", "takes"), [(258, 4, 255), (999, 3, 998), (399, 7, 398)])
def test_the_timesteps_of_a_transformer_are_those_of_its_pipeline(
    teacher: Teacher, first: int, steps: int, takes: int
) -> None:
    """DiTPipeline takes only a number of steps, so at other timesteps its images would differ."""
    check_exportable(teacher, step_times(takes, steps))
    if teacher.captions:
        check_exportable(teacher, step_times(first, steps))
        return
    with pytest.raises(TeacherError, match=rf"method.generator_timestep: the steps from {first} are .*; use {takes}$"):
        check_exportable(teacher, step_times(first, steps))


def test_a_saved_generator_loads_unchanged(teacher: Teacher, tmp_path: Path) -> None:
    generator = export(teacher, tmp_path / "generator", 999)
    back = load_generator(tmp_path / "generator", CPU)
    z, y = torch.randn(3, 4, 4, 4), torch.tensor([0, 5, 9])
    assert torch.equal(back.sampler().sample(z, y), generator.sampler().sample(z, y))
    assert back.sampler().images(y, torch.Generator().manual_seed(0)).shape == (3, 1, 8, 8)


def test_the_registered_model_accepts_labels_and_prompts(teacher: Teacher, tmp_path: Path) -> None:
    """Images of the model equal those of the sampler at the same seed; a prompt gives the images of its label."""
    from flows.registry.pyfunc_generator import OneStepGenerator

    generator = export(teacher, tmp_path / "generator", 999, 499)
    model = OneStepGenerator()
    model.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / "generator")}))  # type: ignore[arg-type]
    answer = model.predict(None, pd.DataFrame({"label": [3, 7]}), {"seed": 5})
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
    ours = generator.sampler().images(torch.tensor([3, 7]), torch.Generator().manual_seed(5))
    assert np.abs(np.stack(images).astype(int) - ours[:, 0].numpy().astype(int)).max() <= 1
    prompts = pd.DataFrame({"prompt": [CAPTIONS[3], CAPTIONS[7]]})
    if teacher.captions:
        assert list(model.predict(None, prompts, {"seed": 5})["png"]) == list(answer["png"])
    else:
        with pytest.raises(MlflowException, match="reads no text"):
            model.predict(None, prompts)


def test_the_card_names_the_prompts_of_the_training(folders: dict[str, Path]) -> None:
    """A generator may have prompts of its own behind the captions of the data, which are then not those of training."""
    teacher = load_teacher(folders["sd"], CPU, captions=("of the data", "one", "two"))
    generator = Generator(teacher.denoiser, (999,), teacher.shape, (), teacher.codec)
    assert "It was trained on the prompts: 'of the data', 'one', 'two'." in card(generator, teacher)
    text = card(generator, teacher, prompts=("one", "two"))
    assert "It was trained on the prompts: 'one', 'two'." in text and "pipe('one'," in text
    assert "of the data" not in text and "Distribution Matching" not in text


def test_text_encoders_stay_on_disk_where_captions_are_encoded_and_are_exported(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """A training holds no text encoder of a text transformer in memory; its export is the same."""
    whole = load_teacher(folders["sd3"], CPU, captions=CAPTIONS)
    pipe = whole.pipeline
    texts = embed_all(find_family(pipe, folders["sd3"]), pipe, CAPTIONS)
    light = load_teacher(folders["sd3"], CPU, captions=CAPTIONS, texts=texts)
    assert all(light.pipeline.components[f"text_encoder{k}"] is None for k in ("", "_2", "_3"))
    export(whole, tmp_path / "whole", 999)
    export(light, tmp_path / "light", 999)
    files = {file.relative_to(tmp_path / "whole") for file in (tmp_path / "whole").rglob("*") if file.is_file()}
    assert files == {file.relative_to(tmp_path / "light") for file in (tmp_path / "light").rglob("*") if file.is_file()}
    index = [json.loads((tmp_path / name / "model_index.json").read_text()) for name in ("whole", "light")]
    assert index[0] == index[1]
    z, y = torch.randn(1, *whole.shape), torch.tensor([3])
    assert torch.equal(
        load_generator(tmp_path / "light", CPU).sampler().sample(z, y),
        whole.codec.decode(generate(whole.denoiser, z, (999,), y)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRANSFORMERS)
@pytest.mark.parametrize("between", ["fresh", "ode"])
def test_the_registered_model_of_a_text_transformer_gives_the_samplers_images(
    folders: dict[str, Path], tmp_path: Path, kind: str, between: Any
) -> None:
    """The stock pipeline takes the noise of the request in its own layout; the order of prompts does not matter."""
    from flows.registry.pyfunc_generator import OneStepGenerator

    teacher = load_teacher(folders[kind], CPU, captions=CAPTIONS)
    times = step_times(teacher.denoiser.default_generator_timestep(), 2)
    if kind == "pixart" and between == "ode":
        with pytest.raises(TeacherError, match=r"method.levels.between: ode is exported only for flows"):
            check_exportable(teacher, times, between)
        return
    check_exportable(teacher, times, between)
    generator = Generator(teacher.denoiser, times, teacher.shape, DIGIT_NAMES, teacher.codec, between)
    export_generator(generator, teacher, tmp_path / "generator")
    model = OneStepGenerator()
    model.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / "generator")}))  # type: ignore[arg-type]
    answer = model.predict(None, pd.DataFrame({"prompt": [CAPTIONS[3], CAPTIONS[7]]}), {"seed": 5})
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
    ours = generator.sampler().images(torch.tensor([3, 7]), torch.Generator().manual_seed(5))
    assert np.abs(np.stack(images).astype(int) - ours[:, 0].numpy().astype(int)).max() <= 1 and ours.float().std() > 1


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize("first", [0.999, 0.75])
def test_a_flow_whose_first_level_is_below_one_runs_in_its_stock_pipeline(
    folders: dict[str, Path], params: Params, tmp_path: Path, kind: str, first: float
) -> None:
    """FastGen's list begins at 0.999. Project and pipeline both start from unit noise, whatever the level."""
    teacher = load_teacher(folders[kind], CPU, captions=CAPTIONS)
    levels = params.method.levels.model_copy(update={"after_shift": [first, 0.5], "between": "ode"})
    cfg = params.method.model_copy(update={"steps": 2, "levels": levels})
    times = times_of_levels(cfg, teacher.denoiser.process)
    assert times[0] < 999
    check_exportable(teacher, times, "ode")
    generator = Generator(teacher.denoiser, times, teacher.shape, DIGIT_NAMES, teacher.codec, "ode")
    export_generator(generator, teacher, tmp_path / "generator")
    pipe: Any = DiffusionPipeline.from_pretrained(tmp_path / "generator")
    z = torch.randn(1, *teacher.shape)
    call = pipeline_arguments(generator, teacher)
    theirs = pipe(prompt=CAPTIONS[3], latents=to_tokens(kind, z), output_type="pt", **call).images
    with torch.no_grad():
        ours = generator.sampler().sample(z, torch.tensor([3]))
    torch.testing.assert_close(((ours + 1) / 2).clamp(0, 1), theirs, rtol=1e-4, atol=1e-4)
    assert ours.std() > 0.01
