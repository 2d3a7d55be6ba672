"""Generators with and without adapters run in the stock pipelines of all kinds of teachers."""

import subprocess
import sys
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dmd.data.splits import DIGIT_NAMES
from dmd.distillation.lora import student, with_adapters
from dmd.generator.adapters import merge_adapters
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.networks.wrapper import unwrap
from dmd.samplers.few_step import generate, step_times
from tests.helpers.networks import CPU
from tests.helpers.teachers.hub_folders import CARDS, KINDS, load, perturb_trainable
from tests.helpers.teachers.text_transformers import TRANSFORMERS, from_tokens, to_tokens


@pytest.mark.slow
def test_every_kind_of_generator_runs_in_its_stock_pipeline_without_this_project(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """The code of the card gives this project's image in a process that cannot import this project."""
    generators: dict[Path, Generator] = {}
    for kind in (kind for kind in KINDS if kind not in TRANSFORMERS):
        teacher = load(folders[kind])
        for rank in (0, 2):
            net = perturb_trainable(student(teacher.denoiser, rank, seed=0))
            generator = Generator(net, (999,), teacher.shape, DIGIT_NAMES if teacher.conditions else (), teacher.codec)
            out = tmp_path / f"{kind}_{rank}"
            export_generator(generator, teacher, out, adapter=rank > 0)
            assert (out / "adapter").is_dir() == (rank > 0)
            generators[out] = generator
    done = subprocess.run(
        [sys.executable, "-c", CARDS, *map(str, generators)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for out, generator in generators.items():
        z = torch.randn(1, *generator.shape, generator=torch.Generator().manual_seed(0))
        y = torch.tensor([0]) if generator.classes else None
        x = generator.codec.decode(generate(generator.denoiser, z, generator.times, y))
        ours = ((x.detach().clamp(-1, 1) + 1) * 127.5).round()[0, 0].numpy()
        theirs = np.load(out / "image.npy").astype(float)
        assert np.abs(theirs - ours).max() <= 1 and ours.std() > 1, out.name
        back = load_generator(out, CPU)
        torch.testing.assert_close(back.codec.decode(generate(back.denoiser, z, (999,), y)), x, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_generators_of_text_transformers_run_in_their_stock_pipelines_without_this_project(
    folders: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """With all weights and with adapters, in one step and in four, the code of the card gives this project's image."""
    generators: dict[Path, Generator] = {}
    teacher = load(folders[kind])
    for rank, steps in ((0, 1), (2, 4)):
        net = perturb_trainable(student(teacher.denoiser, rank, seed=0))
        times = step_times(teacher.denoiser.default_generator_timestep(), steps)
        out = tmp_path / f"{kind}_{steps}"
        generators[out] = Generator(net, times, teacher.shape, DIGIT_NAMES, teacher.codec)
        export_generator(generators[out], teacher, out, adapter=rank > 0)
    done = subprocess.run(
        [sys.executable, "-c", CARDS, *map(str, generators)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for out, generator in generators.items():
        # The pipeline draws the noise of each step when it takes the step, that of later steps as it holds the latents.
        torch.manual_seed(0)
        z = torch.randn(1, 1, *generator.shape)
        for _ in generator.times[1:]:
            later = from_tokens(kind, torch.randn(to_tokens(kind, z[:, 0]).shape), *generator.shape[1:])
            z = torch.cat([z, later[:, None]], dim=1)
        for net in (generator, load_generator(out, CPU)):
            x = net.codec.decode(generate(net.denoiser, z, net.times, torch.tensor([0])))
            ours = ((x.detach().clamp(-1, 1) + 1) * 127.5).round()[0, 0].numpy()
            theirs = np.load(out / "image.npy").astype(float)
            assert np.abs(theirs - ours).max() <= 1 and ours.std() > 1, out.name


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_teacher_with_the_exported_adapter_equals_the_generator(
    folders: dict[str, Path], tmp_path: Path, kind: str, alpha: int
) -> None:
    """diffusers or peft load the adapter folder into the teacher, whose merged weights are then the generator's."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    teacher = load(folders[kind])
    net = perturb_trainable(with_adapters(teacher.denoiser, 2, 0, alpha))
    generator = Generator(net, (999,), teacher.shape, DIGIT_NAMES if teacher.conditions else (), teacher.codec)
    export_generator(generator, teacher, tmp_path / "out", adapter=True)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders[kind])
    part = "transformer" if hasattr(pipe, "transformer") else "unet"
    if hasattr(pipe, "load_lora_weights"):
        pipe.load_lora_weights(tmp_path / "out/adapter")
    else:
        inject_adapter_in_model(LoraConfig.from_pretrained(str(tmp_path / "out/adapter")), getattr(pipe, part))
        weights = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
        assert not set_peft_model_state_dict(getattr(pipe, part), weights).unexpected_keys
    own = {k: v for k, v in unwrap(net.net).state_dict().items() if "lora_" in k}
    put = {k: v for k, v in getattr(pipe, part).state_dict().items() if "lora_" in k}
    assert len(own) == len(put)
    for (_, a), (_, b) in zip(sorted(own.items()), sorted(put.items()), strict=True):
        assert torch.equal(a, b)
    want, got = (merge_adapters(x).state_dict() for x in (unwrap(net.net), getattr(pipe, part)))
    assert all(torch.equal(v, got[k]) for k, v in want.items())
