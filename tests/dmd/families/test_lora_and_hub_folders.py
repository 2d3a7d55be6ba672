"""Teachers in the hub's own format, students with and without adapters, and their generators in stock pipelines."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import httpx
import numpy as np
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file

from dmd.codecs.latents import Latents
from dmd.config import Params, validate
from dmd.data.splits import DIGIT_NAMES
from dmd.diffusion.denoiser import Denoiser
from dmd.diffusion.networks import unwrap
from dmd.distillation.batches import TrainingImages
from dmd.distillation.lora import frozen_copy, student, with_adapters
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError, TeacherError
from dmd.generator.adapters import merge_adapters
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.samplers.few_step import generate
from dmd.teachers.check import describe
from dmd.teachers.fetch import download
from dmd.teachers.pairs import make_pairs
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.data import reals
from tests.helpers.hub_folders import CARDS, KINDS, hub_folder
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.training import alone

CAPTIONS = tuple(f"a handwritten {name}" for name in DIGIT_NAMES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {kind: hub_folder(kind, root / kind) for kind in KINDS}


def loaded(folder: Path) -> Teacher:
    return load_teacher(folder, CPU, captions=CAPTIONS)


def small(params: Params, **changes: Any):
    size = {"batch_size": 4, "generator_batch_size": 4, "generator_turns": 2, "warmup_turns": 0}
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    return params.train.model_copy(update={**size, "warm_start": warm, "ema_half_lives": [8], **changes})


def state_of(teacher: Teacher, params: Params, name: str, rank: int, critic_rank: int = 0):
    cfg = small(params)
    pairs = make_pairs(teacher, None, params.pairs.model_copy(update={"count": 0}), CPU)
    x = reals().x
    real = TrainingImages(teacher.codec.encode(x) if isinstance(teacher.codec, Latents) else x, reals().labels)
    method = METHODS[name](params.method.model_copy(update={"name": name, "critic_turns": 1}), 1000, pairs, real)
    return TrainState(method.networks(teacher, 0, (rank, critic_rank)), cfg), method, cfg


def turns(state: TrainState, method: Any, cfg: Any, teacher: Teacher) -> list[dict[str, Any]]:
    labels = torch.arange(10) if teacher.classes else None
    return list(train(state, method, cfg, teacher.shape, labels, alone()))


def stirred(denoiser: Denoiser) -> Denoiser:
    """With adapters that do something: they begin as nothing."""
    with torch.no_grad():
        for p in denoiser.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape))
    return denoiser.eval()


def cond(teacher: Teacher, n: int) -> torch.Tensor | None:
    return torch.arange(n) if teacher.classes else None


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_with_adapters_begins_as_the_teacher_and_merges_to_what_it_is(
    folders: dict[str, Path], kind: str
) -> None:
    teacher = loaded(folders[kind])
    z, t, y = torch.randn(2, *teacher.shape), torch.tensor([500, 900]), cond(teacher, 2)
    new = with_adapters(teacher.denoiser, 2, seed=0)
    assert torch.equal(new(z, t, y), teacher.denoiser(z, t, y))
    before = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    plain = merge_adapters(unwrap(stirred(new).net))
    assert type(plain) is type(unwrap(teacher.denoiser.net))
    assert plain.state_dict().keys() == unwrap(teacher.denoiser.net).state_dict().keys()
    made, was = new(z, t, y), teacher.denoiser(z, t, y)
    back = teacher.denoiser.copy()
    unwrap(back.net).load_state_dict(plain.state_dict())
    torch.testing.assert_close(back(z, t, y), made, rtol=1e-4, atol=1e-4)
    assert (made - was).abs().max() > 0.01
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())


def test_few_weights_learn_and_the_others_are_the_teachers_own_memory(folders: dict[str, Path]) -> None:
    teacher = loaded(folders["sdxl"])
    new = with_adapters(teacher.denoiser, 1, seed=0)
    own = [p for p in new.parameters() if p.requires_grad]
    whole = sum(p.numel() for p in teacher.denoiser.parameters())
    assert 0 < sum(p.numel() for p in own) < 0.1 * whole
    for net in (new, frozen_copy(new)):
        shared = {p.data_ptr() for p in teacher.denoiser.parameters()} & {p.data_ptr() for p in net.parameters()}
        assert len(shared) == len({p.data_ptr() for p in teacher.denoiser.parameters()})
    whole_copy = student(teacher.denoiser, 0, seed=0)
    assert all(p.requires_grad for p in whole_copy.parameters())
    assert not {p.data_ptr() for p in whole_copy.parameters()} & {p.data_ptr() for p in teacher.denoiser.parameters()}


def test_the_adapters_weights_depend_on_the_seed_alone(folders: dict[str, Path]) -> None:
    denoiser = loaded(folders["dit"]).denoiser
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = with_adapters(denoiser, 2, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = with_adapters(denoiser, 2, seed=3).state_dict(), with_adapters(denoiser, 2, seed=4).state_dict()
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert any(not torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize(("kind", "critic_rank"), [("ddpm", 0), ("dit", 2), ("sdxl", 2)])
def test_training_moves_the_adapters_and_their_average_alone(
    folders: dict[str, Path], params: Params, kind: str, critic_rank: int
) -> None:
    teacher = loaded(folders[kind])
    state, method, cfg = state_of(teacher, params, "dmd2", 2, critic_rank)
    before = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    starts = {k: v.clone() for k, v in state.nets.generator.state_dict().items()}
    assert len(turns(state, method, cfg, teacher)) == 2
    moved = {k for k, v in state.nets.generator.state_dict().items() if not torch.equal(v, starts[k])}
    assert moved and all("lora_" in k for k in moved)
    average = state.averages[8].state_dict()
    assert {k for k, v in average.items() if not torch.equal(v, starts[k])} == moved
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())
    critic = [p.requires_grad for p in state.nets.critic.parameters()]
    assert all(critic) if critic_rank == 0 else not all(critic)


def test_a_checkpoint_holds_what_learns_and_training_goes_on_from_it(folders: dict[str, Path], params: Params) -> None:
    teacher = loaded(folders["sd"])
    state, method, cfg = state_of(teacher, params, "dmd2", 2, 2)
    labels = torch.arange(10)
    rows = train(state, method, cfg, teacher.shape, labels, alone())
    next(rows)
    state.keep_if_best(8, 1.0, 0.0)
    saved = state.state_dict()
    assert saved["generator"] and all("lora_" in k for k in [*saved["generator"], *saved["averages"][8]])
    assert any("heads" in k and "lora_" not in k for k in saved["critic"])  # the discriminator, all of it
    assert all("lora_" in k for k in saved["best"]["weights"])
    saved = torch.load(_dump(saved), weights_only=True)
    end = next(rows)
    again, method, _ = state_of(teacher, params, "dmd2", 2, 2)
    again.load_state_dict(saved)
    row = next(train(again, method, cfg, teacher.shape, labels, alone()))
    assert row["generator_total"] == end["generator_total"] and row["critic_total"] == end["critic_total"]
    assert all(torch.equal(v, state.averages[8].state_dict()[k]) for k, v in again.averages[8].state_dict().items())


def _dump(state: dict[str, Any]) -> Any:
    import io

    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_every_kind_with_and_without_adapters_generates_in_its_stock_pipeline_elsewhere(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """By its card, in a process that cannot import this project; pixel for pixel what this project makes."""
    made: dict[Path, Generator] = {}
    for kind, folder in folders.items():
        teacher = loaded(folder)
        for rank in (0, 2):
            net = stirred(student(teacher.denoiser, rank, seed=0))
            generator = Generator(net, (999,), teacher.shape, DIGIT_NAMES if teacher.classes else (), teacher.codec)
            out = tmp_path / f"{kind}_{rank}"
            export_generator(generator, teacher, out, adapter=rank > 0)
            assert (out / "adapter").is_dir() == (rank > 0)
            made[out] = generator
    done = subprocess.run([sys.executable, "-c", CARDS, *map(str, made)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for out, generator in made.items():
        z = torch.randn(1, *generator.shape, generator=torch.Generator().manual_seed(0))
        y = torch.tensor([0]) if generator.classes else None
        x = generator.codec.decode(generate(generator.denoiser, z, generator.times, y))
        ours = ((x.detach().clamp(-1, 1) + 1) * 127.5).round()[0, 0].numpy()
        theirs = np.load(out / "image.npy").astype(float)
        assert np.abs(theirs - ours).max() <= 1 and ours.std() > 1, out.name
        back = load_generator(out, CPU)
        torch.testing.assert_close(back.codec.decode(generate(back.denoiser, z, (999,), y)), x, rtol=1e-3, atol=1e-3)


def test_alpha_scales_what_adapters_add(folders: dict[str, Path]) -> None:
    denoiser = loaded(folders["dit"]).denoiser
    z, t, y = torch.randn(2, 4, 4, 4), torch.tensor([500, 900]), torch.arange(2)
    whole, same, half = (with_adapters(denoiser, 4, 0, alpha) for alpha in (0, 4, 2))
    for net in (whole, same, half):
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.data.fill_(1e-3 if net is not half else 2e-3)
    assert torch.equal(same(z, t, y), whole(z, t, y)) and (whole(z, t, y) - denoiser(z, t, y)).abs().max() > 1e-4
    torch.testing.assert_close(half(z, t, y), whole(z, t, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dmd", "dmd2"])
def test_alpha_is_that_of_generator_and_critic(folders: dict[str, Path], params: Params, name: str) -> None:
    teacher = loaded(folders["ddpm"])
    _, method, _ = state_of(teacher, params, name, 2)
    nets = method.networks(teacher, 0, (4, 2), 1)
    assert [unwrap(n.net).peft_config["default"].lora_alpha for n in (nets.generator, nets.critic)] == [1, 1]


@pytest.mark.parametrize("alpha", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_makes_the_generator_of_the_teacher(
    folders: dict[str, Path], tmp_path: Path, kind: str, alpha: int
) -> None:
    """The adapter's own folder, put on the teacher by diffusers or by peft, gives the merged weights' output."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

    teacher = loaded(folders[kind])
    net = stirred(with_adapters(teacher.denoiser, 2, 0, alpha))
    generator = Generator(net, (999,), teacher.shape, DIGIT_NAMES if teacher.classes else (), teacher.codec)
    export_generator(generator, teacher, tmp_path / "out", adapter=True)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folders[kind])
    part = "transformer" if kind == "dit" else "unet"
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


def test_the_words_of_sdxl_are_its_own_pipelines(folders: dict[str, Path]) -> None:
    """Embeddings, pooled ones and the null condition (zeros) of encode_prompt; the image's size as time ids."""
    net = loaded(folders["sdxl"]).denoiser.net
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["sdxl"])
    told, none, pooled, none_pooled = pipe.encode_prompt(CAPTIONS[3], device=CPU)
    here = torch.tensor([3, 10])
    torch.testing.assert_close(net.embeddings(here)[0], told[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(net.pooled(here)[0], pooled[0], rtol=0, atol=1e-6)
    assert torch.equal(net.embeddings(here)[1], none[0]) and torch.equal(net.pooled(here)[1], none_pooled[0])
    ids = pipe._get_add_time_ids((8, 8), (0, 0), (8, 8), torch.float32, pooled.shape[1])
    assert torch.equal(net.time_ids[None], ids)


def test_a_refiner_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """It has one text encoder, the second: not a teacher that begins from noise."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["sdxl"], text_encoder=None, tokenizer=None)
    pipe.save_pretrained(tmp_path / "refiner")
    with pytest.raises(TeacherError, match=r"holds a StableDiffusionXLPipeline; supported are"):
        loaded(tmp_path / "refiner")


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        ("train", {"lora_adapter": True}, r"train.lora_adapter: there is no adapter to write"),
        ("train", {"lora_rank": -1}, r"train.lora_rank: -1 is not allowed"),
        (
            "method",
            {"init_from": str(ROOT)},
            r"train.lora_rank: 4 trains adapters on the teacher's weights",
        ),
    ],
)
def test_adapters_that_cannot_be_are_refused(params: Params, group: str, changes: dict, message: str) -> None:
    raw = params.model_dump(by_alias=True)
    if group == "method":
        raw["train"]["lora_rank"] = 4
    raw[group].update(changes)
    with pytest.raises(ConfigError, match=message):
        validate(raw, "params.yaml")


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("ddpm", "predicts epsilon, linear schedule of 1000 steps, unconditional, images 1x8x8"),
        ("dit", "predicts epsilon, linear schedule of 1000 steps, 11 labels with the null one, images 1x8x8"),
        ("sdxl", "predicts epsilon, scaled_linear schedule of 1000 steps, told of captions, images 1x8x8"),
    ],
)
def test_a_teacher_says_what_it_is(folders: dict[str, Path], kind: str, line: str) -> None:
    assert describe(loaded(folders[kind])).endswith(line)


@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (GatedRepoError, "is gated: accept its terms at https://huggingface.co/owner/name"),
        (RepositoryNotFoundError, "does not exist, or is private"),
        (RevisionNotFoundError, "'v9' could not be fetched: there is no such revision"),
    ],
)
def test_the_hubs_answer_is_told(
    monkeypatch: pytest.MonkeyPatch, answer: type[HfHubHTTPError], message: str, hidden: bool
) -> None:
    """As it is, or behind diffusers' own error of its cache."""

    def refuse(*_: object, **__: object) -> str:
        said = answer("no", response=httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co")))
        if hidden:
            raise OSError("not cached") from said
        raise said

    monkeypatch.setattr(diffusers.DiffusionPipeline, "download", refuse)
    with pytest.raises(TeacherError, match=message):
        download("owner/name", "v9")
