"""Teachers on latents: DiT with labels, UNet2DConditionModel with captions; and their generators in stock pipelines."""

import base64
import io
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
from diffusers import FlowMatchEulerDiscreteScheduler
from mlflow.exceptions import MlflowException
from PIL import Image

from dmd.codecs import latents as codecs
from dmd.codecs.latents import Latents, at_once
from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES, Split
from dmd.diffusion.denoiser import Denoiser, Guided
from dmd.diffusion.pipelines import save_pipeline
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import TeacherError
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.generator.scheduler import check_exportable
from dmd.samplers.few_step import generate, step_times
from dmd.teacher_training.architectures import new_network, new_scheduler
from dmd.teacher_training.learning_captions import LearningCaptions
from dmd.teacher_training.vae import set_scale, train_vae
from dmd.teachers.check import check_fits
from dmd.teachers.pairs import Pairs, make_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.data import reals
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.training import alone

CAPTIONS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)


def digits() -> Split:
    rng = torch.Generator().manual_seed(3)
    images = torch.randint(256, (40, 1, 8, 8), generator=rng, dtype=torch.uint8)
    labels = torch.arange(40) % 10
    return Split(images, labels, [CAPTIONS[i] for i in labels.tolist()], DIGIT_NAMES, CAPTIONS)


def tiny(params: Params, network: str, **changes: object) -> Params:
    cfg = params.teacher
    update = {
        "network": network,
        "channels": [8, 16],
        "vae": cfg.vae.model_copy(update={"channels": [8, 8], "steps": 3}),
        "text": cfg.text.model_copy(update={"hidden_size": 16, "layers": 1}),
        "dit": cfg.dit.model_copy(update={"width": 16, "layers": 3}),
    }
    return params.model_copy(update={"teacher": cfg.model_copy(update={**update, **changes})})


def teacher_folder(params: Params, out: Path) -> Path:
    """An untrained teacher whose output heeds its input, its scale set on the images."""
    torch.manual_seed(0)
    net, parts = new_network(params.teacher, digits())
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    parts.vae.eval()
    set_scale(parts.vae, reals().x)
    bare = net.unet if isinstance(net, LearningCaptions) else net.transformer
    save_pipeline(bare, new_scheduler(params.teacher), out, like=parts)
    return out


@pytest.fixture(params=["dit", "text_unet"])
def teacher(request: pytest.FixtureRequest, params: Params, tmp_path: Path) -> Teacher:
    return load_teacher(teacher_folder(tiny(params, request.param), tmp_path / "teacher"), CPU, captions=CAPTIONS)


def method(params: Params, teacher: Teacher, name: str, pairs: Pairs, **changes: object):
    real = reals()
    real = type(real)(teacher.codec.encode(real.x), real.labels)
    return METHODS[name](params.method.model_copy(update={"name": name, **changes}), 1000, pairs, real)


def test_the_latents_have_unit_spread_and_decode_to_images(teacher: Teacher) -> None:
    assert isinstance(teacher.codec, Latents) and teacher.shape == (4, 4, 4)
    x = teacher.codec.encode(reals().x)
    assert x.shape == (40, 4, 4, 4) and x.std().item() == pytest.approx(1.0, rel=1e-4)
    vae = teacher.codec.vae
    assert torch.equal(teacher.codec.decode(x), vae.decode(x / vae.config.scaling_factor).sample)
    check_fits(teacher, (1, 8, 8), 10)
    if not teacher.captions:
        with pytest.raises(TeacherError, match="the data have 11"):  # a DiT's last label is always the null one
            check_fits(teacher, (1, 8, 8), 11)
    with pytest.raises(TeacherError, match="images of shape"):
        check_fits(teacher, (1, 16, 16), 10)


@pytest.mark.parametrize(("side", "count"), [(8, 256), (64, 256), (128, 64), (512, 4), (1024, 1), (4096, 1)])
def test_the_larger_the_images_the_fewer_pass_a_vae_at_once(side: int, count: int) -> None:
    assert at_once(side, side) == count


def test_latents_pass_the_vae_by_the_size_of_their_images(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    codec: Any = teacher.codec
    sizes: list[int] = []
    x = codec.encode(torch.rand(7, 1, 8, 8))
    whole = codec.decode(x)
    monkeypatch.setattr(codecs, "PIXELS_AT_ONCE", 4 * 8 * 8)
    for name in ("encoder", "decoder"):
        getattr(codec.vae, name).register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    torch.testing.assert_close(codec.decode(x), whole, rtol=1e-4, atol=1e-5)
    codec.encode(whole)
    assert sizes == 2 * [4, 3]


def test_conditions_are_heard_and_the_last_one_is_none(teacher: Teacher) -> None:
    """Eleven of them: ten classes or captions, and the one that guidance takes for none."""
    assert teacher.classes == 11
    z, t = torch.randn(1, 4, 4, 4).repeat(3, 1, 1, 1), torch.full((3,), 500)
    a, b, none = teacher.denoiser(z, t, torch.tensor([0, 1, 10]))
    assert not torch.allclose(a, b) and not torch.allclose(a, none)
    guided = Guided(teacher.denoiser, 3.0, teacher.classes - 1)(z, t, torch.tensor([0, 1, 2]))[0]
    torch.testing.assert_close(guided, none + 3 * (a - none), rtol=1e-4, atol=1e-4)


def test_a_captions_embedding_is_stable_diffusions_own(params: Params, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    folder = teacher_folder(tiny(params, "text_unet"), tmp_path / "teacher")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    want, none = pipe.encode_prompt(CAPTIONS[3], CPU, 1, True, negative_prompt="")
    got = load_teacher(folder, CPU, captions=CAPTIONS).denoiser.net.embeddings(torch.arange(11))
    torch.testing.assert_close(got[3], want[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[10], none[0], rtol=0, atol=1e-6)


def test_a_network_on_text_needs_captions(params: Params, tmp_path: Path) -> None:
    folder = teacher_folder(tiny(params, "text_unet"), tmp_path / "teacher")
    with pytest.raises(TeacherError, match="conditioned on text"):
        load_teacher(folder, CPU)


@pytest.mark.parametrize("name", ["dmd", "dmd2"])
def test_one_turn_of_each_network_learns_and_leaves_vae_and_text_alone(
    teacher: Teacher, params: Params, name: str
) -> None:
    pairs = make_pairs(teacher, torch.arange(10), params.pairs.model_copy(update={"count": 6, "steps": 2}), CPU)
    assert pairs.x.shape == (6, 4, 4, 4)
    small = {"batch_size": 4, "generator_batch_size": 4, "generator_turns": 1, "warmup_turns": 0}
    warm = params.train.warm_start.model_copy(update={"turns": 1, "critic_turns": 1, "batch_size": 4})
    cfg = params.train.model_copy(update={**small, "warm_start": warm})
    m = method(params, teacher, name, pairs)
    nets = m.networks(teacher, 0)
    state = TrainState(nets, cfg)
    before = {k: v.clone() for k, v in nets.generator.state_dict().items()}
    rows = list(train(state, m, cfg, teacher.shape, torch.arange(10), alone()))
    assert [row["phase"] for row in rows] == ["warm_start", "adversarial" if name == "dmd2" else "distill"]
    moved = [k for k, v in nets.generator.state_dict().items() if not torch.equal(v, before[k])]
    assert moved and not any("vae" in k or "text_encoder" in k or "embeddings" in k for k in moved)
    assert not any("vae" in k or "text_encoder" in k for k in before)


def exported(teacher: Teacher, out: Path, *times: int) -> Generator:
    generator = Generator(teacher.denoiser, times, teacher.shape, DIGIT_NAMES, teacher.codec)
    export_generator(generator, teacher, out)
    return generator


CARDS = """
import importlib.util, os, sys
import numpy
assert importlib.util.find_spec("dmd") is None
for folder in sys.argv[1:]:
    os.chdir(folder)
    names = {}
    exec(open("README.md").read().split("```python\\n")[1].split("```")[0], names)
    numpy.save("image.npy", numpy.asarray(names["image"]))
"""


def test_the_cards_of_exported_generators_are_right_without_this_project(params: Params, tmp_path: Path) -> None:
    """Each card's lines, run in a process that cannot import this project, give this project's image."""
    made: dict[Path, Generator] = {}
    for network in ("dit", "text_unet"):
        teacher = load_teacher(teacher_folder(tiny(params, network), tmp_path / network), CPU, captions=CAPTIONS)
        for times in ((999,), (999, 749, 499, 249), (258,)):
            out = tmp_path / f"{network}_{len(times)}_{times[0]}"
            made[out] = exported(teacher, out, *times)
    subprocess.run([sys.executable, "-c", CARDS, *map(str, made)], cwd=tmp_path, check=True, capture_output=True)
    for out, generator in made.items():
        assert "dmd" not in (out / "README.md").read_text().split("```")[1]
        rng, times = torch.Generator().manual_seed(0), generator.times
        # The pipeline draws the noise of a step when it comes to it.
        z = torch.stack([torch.randn(1, 4, 4, 4, generator=rng) for _ in times], dim=1)
        noise = z if len(times) > 1 else z[:, 0]
        ours = generator.codec.decode(generate(generator.denoiser, noise, times, torch.tensor([0])))
        ours = ((ours.detach().clamp(-1, 1) + 1) * 127.5).round()[0, 0].numpy()
        theirs = np.load(out / "image.npy").astype(float)
        assert np.abs(theirs - ours).max() <= 1 and ours.std() > 1, out.name


def test_a_transformer_is_refused_where_its_pipeline_could_not_start(teacher: Teacher) -> None:
    check_exportable(teacher, (399,))  # this schedule can be cut short
    flow = replace(teacher, pipeline=SimpleNamespace(scheduler=FlowMatchEulerDiscreteScheduler()))
    check_exportable(flow, (999, 499))
    if teacher.captions:
        check_exportable(flow, (399,))  # Stable Diffusion's pipeline is told its timesteps
    else:
        with pytest.raises(TeacherError, match=r"method.generator_timestep: 399"):
            check_exportable(flow, (399,))


@pytest.mark.parametrize(("first", "steps", "takes"), [(258, 4, 255), (999, 3, 998), (399, 7, 398)])
def test_a_transformer_takes_steps_that_its_pipeline_would_take(
    teacher: Teacher, first: int, steps: int, takes: int
) -> None:
    """DiTPipeline is told their number alone: its card's images would be others."""
    check_exportable(teacher, step_times(takes, steps))
    if teacher.captions:
        check_exportable(teacher, step_times(first, steps))
        return
    with pytest.raises(TeacherError, match=rf"method.generator_timestep: from {first} on .*; use {takes}$"):
        check_exportable(teacher, step_times(first, steps))


def test_a_transformer_in_training_hears_every_label(params: Params) -> None:
    """diffusers' own label dropout, from the global generator, stays off: the trainer's is the only one."""
    torch.manual_seed(0)
    net, _ = new_network(tiny(params, "dit").teacher, digits())
    denoiser, (z, t, y) = _of(net, params), (torch.randn(40, 4, 4, 4), torch.full((40,), 300), torch.arange(40) % 10)
    assert all(torch.equal(denoiser(z, t, y), denoiser(z, t, y)) for _ in range(3))


def test_a_generator_survives_its_folder(teacher: Teacher, tmp_path: Path) -> None:
    generator = exported(teacher, tmp_path / "generator", 999)
    back = load_generator(tmp_path / "generator", CPU)
    z, y = torch.randn(3, 4, 4, 4), torch.tensor([0, 5, 9])
    assert torch.equal(back.sampler().sample(z, y), generator.sampler().sample(z, y))
    assert back.sampler().images(y, torch.Generator().manual_seed(0)).shape == (3, 1, 8, 8)


def test_the_registered_model_answers_labels_and_prompts(teacher: Teacher, tmp_path: Path) -> None:
    """The same images as this project's sampler, from the noise of the request; a prompt is as good as its label."""
    from flows.registry.pyfunc_generator import OneStepGenerator

    generator = exported(teacher, tmp_path / "generator", 999, 499)
    model = OneStepGenerator()
    model.load_context(SimpleNamespace(artifacts={"generator": str(tmp_path / "generator")}))  # type: ignore[arg-type]
    answer = model.predict(None, pd.DataFrame({"label": [3, 7]}), {"seed": 5})
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in answer["png"]]
    ours = generator.sampler().images(torch.tensor([3, 7]), torch.Generator().manual_seed(5))
    assert np.abs(np.stack(images).astype(int) - ours[:, 0].numpy().astype(int)).max() <= 1
    asked = pd.DataFrame({"prompt": [CAPTIONS[3], CAPTIONS[7]]})
    if teacher.captions:
        assert list(model.predict(None, asked, {"seed": 5})["png"]) == list(answer["png"])
    else:
        with pytest.raises(MlflowException, match="reads no text"):
            model.predict(None, asked)


def test_a_vae_learns_to_reconstruct(params: Params) -> None:
    cfg = tiny(params, "dit").teacher
    cfg = cfg.model_copy(update={"vae": cfg.vae.model_copy(update={"steps": 60}), "batch_size": 20, "warmup_steps": 5})
    torch.manual_seed(0)
    _, parts = new_network(cfg, digits())
    x = reals().x[:20].roll(0) * 0 + torch.linspace(-1, 1, 8)  # a ramp, the same in each
    before = (parts.vae.decode(parts.vae.encode(x).latent_dist.mode()).sample - x).square().mean()
    train_vae(parts.vae, cfg, x)
    after = (parts.vae.decode(parts.vae.encode(x).latent_dist.mode()).sample - x).square().mean()
    assert after < 0.2 * before


def test_the_text_encoder_learns_with_the_network(params: Params) -> None:
    torch.manual_seed(0)
    net, _ = new_network(tiny(params, "text_unet").teacher, digits())
    denoiser = Denoiser(net, *(lambda d: (d.process, d.parametrisation))(_of(net, params)))
    denoiser.predict(torch.randn(2, 4, 4, 4), torch.tensor([10, 700]), torch.tensor([1, 10])).sum().backward()
    assert all(p.grad is not None for p in net.text_encoder.parameters())


def _of(net: torch.nn.Module, params: Params) -> Denoiser:
    from dmd.diffusion.denoiser import as_denoiser

    return as_denoiser(net, new_scheduler(params.teacher))


@pytest.mark.slow
@pytest.mark.parametrize("network", ["dit", "text_unet"])
def test_the_stages_train_distill_and_judge(params: Params, tmp_path: Path, network: str) -> None:
    """The whole path on reduced numbers, by the stages' own commands."""
    from ruamel.yaml import YAML

    yaml = YAML()
    raw = yaml.load(ROOT / "params.yaml")
    raw["teacher"].update({"network": network, "steps": 20, "batch_size": 16})
    raw["teacher"]["vae"]["steps"] = 20
    raw["guidance"]["scale"] = 1.5
    raw["evaluator"].update({"steps": 20, "classifier_steps": 20})
    raw["baseline"].update({"samples": 50, "draws": 2, "ddim_steps": [2]})
    raw["pairs"].update({"count": 20, "steps": 2})
    raw["train"].update({"generator_turns": 2, "validate_every": 1})
    raw["train"]["warm_start"].update({"turns": 2, "critic_turns": 1})
    yaml.dump(raw, tmp_path / "params.yaml")
    folders = {
        k: f"artifacts/{k}" for k in ("data", "teacher", "encoded", "evaluator", "baseline", "pairs", "generator")
    }
    stage = {
        "data": {"out": "data"},
        "teacher": {"data": "data", "out": "teacher", "losses": "tl.csv"},
        "evaluator": {"data": "data", "out": "evaluator"},
        "encode": {"data": "data", "teacher": "teacher", "out": "encoded"},
        "baseline": {**{k: k for k in ("data", "teacher", "encoded", "evaluator")}, "out": "baseline"},
        "pairs": {**{k: k for k in ("data", "teacher", "encoded")}, "out": "pairs"},
        "train": {
            **{k: k for k in ("data", "teacher", "encoded", "evaluator", "pairs")},
            **{"out": "generator", "losses": "losses.csv", "validation": "training"},
        },
        "evaluate": {
            **{k: k for k in ("data", "teacher", "encoded", "evaluator", "baseline", "generator")},
            **{"losses": "losses.csv", "validation": "training", "metrics": "m.json", "timing": "t.json"},
            **{"quality": "q.csv", "plots": "plots", "samples": "s.png", "report": "r.html"},
        },
    }
    for name, paths in stage.items():
        words = [w for key, value in paths.items() for w in (f"--{key}", folders.get(value, value))]
        subprocess.run(
            [sys.executable, "-m", f"stages.{name}", *words],
            cwd=tmp_path,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "DMD_SCRATCH": str(tmp_path / "scratch")},
            check=True,
        )
    assert (tmp_path / "r.html").is_file()
