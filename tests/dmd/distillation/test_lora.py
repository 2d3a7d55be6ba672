"""LoRA adapters start as the teacher, are the only weights that train, and merge into plain weights."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.codecs.latents import Latents
from dmd.config import Params, TrainConfig, validate
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.lora import frozen_copy, student, with_adapters
from dmd.distillation.methods import METHODS
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.generator.adapters import merge_adapters
from dmd.networks.wrapper import unwrap
from dmd.teachers.pairs import collect_pairs, make_pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT
from tests.helpers.sources import reals
from tests.helpers.teachers.hub_folders import KINDS, conditions, load, perturb_trainable
from tests.helpers.training import alone


def train_config(params: Params, **changes: Any) -> TrainConfig:
    """Config of a training with two generator turns and batches of four."""
    size = {"batch_size": 4, "generator_batch_size": 4, "generator_turns": 2, "warmup_turns": 0}
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    return params.train.model_copy(update={**size, "warm_start": warm, "ema_half_lives": [8], **changes})


def new_state(teacher: Teacher, params: Params, name: str, rank: int, critic_rank: int = 0) -> Any:
    """(training state, method, train config) of a method with these LoRA ranks."""
    cfg = train_config(params)
    pairs = collect_pairs(make_pairs(teacher, None, params.pairs.model_copy(update={"count": 0}), CPU))
    x = reals().x
    real = TrainingImages(teacher.codec.encode(x) if isinstance(teacher.codec, Latents) else x, reals().labels)
    method = METHODS[name](params.method.model_copy(update={"name": name, "critic_turns": 1}), 1000, pairs, real)
    return TrainState(method.networks(teacher, 0, (rank, critic_rank)), cfg), method, cfg


def train_rows(state: TrainState, method: Any, cfg: TrainConfig, teacher: Teacher) -> list[dict[str, Any]]:
    """Train to the end, and return the rows of the log."""
    labels = torch.arange(10) if teacher.conditions else None
    return list(train(state, method, cfg, teacher.shape, labels, alone()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_with_adapters_starts_as_the_teacher_and_merges_exactly(folders: dict[str, Path], kind: str) -> None:
    teacher = load(folders[kind])
    z, t, y = torch.randn(2, *teacher.shape), torch.tensor([500, 900]), conditions(teacher, 2)
    new = with_adapters(teacher.denoiser, 2, seed=0)
    assert torch.equal(new(z, t, y), teacher.denoiser(z, t, y))
    before = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    plain = merge_adapters(unwrap(perturb_trainable(new).net))
    assert type(plain) is type(unwrap(teacher.denoiser.net))
    assert plain.state_dict().keys() == unwrap(teacher.denoiser.net).state_dict().keys()
    output, original = new(z, t, y), teacher.denoiser(z, t, y)
    back = teacher.denoiser.copy()
    unwrap(back.net).load_state_dict(plain.state_dict())
    torch.testing.assert_close(back(z, t, y), output, rtol=1e-4, atol=1e-4)
    assert (output - original).abs().max() > 0.01
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())


def test_few_weights_train_and_the_others_share_memory_with_the_teacher(folders: dict[str, Path]) -> None:
    teacher = load(folders["sdxl"])
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


def test_the_weights_of_adapters_depend_only_on_the_seed(folders: dict[str, Path]) -> None:
    denoiser = load(folders["dit"]).denoiser
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = with_adapters(denoiser, 2, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    two, other = with_adapters(denoiser, 2, seed=3).state_dict(), with_adapters(denoiser, 2, seed=4).state_dict()
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    assert any(not torch.equal(v, other[k]) for k, v in one.items())


@pytest.mark.parametrize(("kind", "critic_rank"), [("ddpm", 0), ("dit", 2), ("sdxl", 2)])
def test_training_changes_only_the_adapters_and_their_average(
    folders: dict[str, Path], params: Params, kind: str, critic_rank: int
) -> None:
    teacher = load(folders[kind])
    state, method, cfg = new_state(teacher, params, "dmd2", 2, critic_rank)
    before = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    starts = {k: v.clone() for k, v in state.nets.generator.state_dict().items()}
    assert len(train_rows(state, method, cfg, teacher)) == 2
    moved = {k for k, v in state.nets.generator.state_dict().items() if not torch.equal(v, starts[k])}
    assert moved and all("lora_" in k for k in moved)
    average = state.averages[8].state_dict()
    assert {k for k, v in average.items() if not torch.equal(v, starts[k])} == moved
    assert all(torch.equal(v, before[k]) for k, v in teacher.denoiser.state_dict().items())
    critic = [p.requires_grad for p in state.nets.critic.parameters()]
    assert all(critic) if critic_rank == 0 else not all(critic)


def test_a_checkpoint_holds_the_trained_weights_and_training_resumes_from_it(
    folders: dict[str, Path], params: Params
) -> None:
    teacher = load(folders["sd"])
    state, method, cfg = new_state(teacher, params, "dmd2", 2, 2)
    labels = torch.arange(10)
    rows = train(state, method, cfg, teacher.shape, labels, alone())
    next(rows)
    state.keep_if_best(8, [1.0, 1.0], 0.0, whole=True)
    saved = state.state_dict()
    assert saved["generator"] and all("lora_" in k for k in [*saved["generator"], *saved["averages"][8]])
    assert any("heads" in k and "lora_" not in k for k in saved["critic"])  # the whole discriminator
    kept = saved["best"]["networks"]
    assert all("lora_" in k for k in [*kept["generator"], *kept["averages"][8]])
    assert kept["critic"].keys() == saved["critic"].keys()
    saved = torch.load(saved_file(saved), weights_only=True)
    end = next(rows)
    again, method, _ = new_state(teacher, params, "dmd2", 2, 2)
    again.load_state_dict(saved)
    row = next(train(again, method, cfg, teacher.shape, labels, alone()))
    assert row["generator_total"] == end["generator_total"] and row["critic_total"] == end["critic_total"]
    assert all(torch.equal(v, state.averages[8].state_dict()[k]) for k, v in again.averages[8].state_dict().items())


def saved_file(state: dict[str, Any]) -> io.BytesIO:
    """Bytes of a training state in the format of torch.save."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_alpha_scales_the_output_of_adapters(folders: dict[str, Path]) -> None:
    denoiser = load(folders["dit"]).denoiser
    z, t, y = torch.randn(2, 4, 4, 4), torch.tensor([500, 900]), torch.arange(2)
    whole, same, half = (with_adapters(denoiser, 4, 0, alpha) for alpha in (0, 4, 2))
    for net in (whole, same, half):
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.data.fill_(1e-3 if net is not half else 2e-3)
    assert torch.equal(same(z, t, y), whole(z, t, y)) and (whole(z, t, y) - denoiser(z, t, y)).abs().max() > 1e-4
    torch.testing.assert_close(half(z, t, y), whole(z, t, y), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dmd", "dmd2"])
def test_alpha_applies_to_generator_and_critic(folders: dict[str, Path], params: Params, name: str) -> None:
    teacher = load(folders["ddpm"])
    _, method, _ = new_state(teacher, params, name, 2)
    nets = method.networks(teacher, 0, (4, 2), 1)
    assert [unwrap(n.net).peft_config["default"].lora_alpha for n in (nets.generator, nets.critic)] == [1, 1]


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
def test_settings_that_adapters_do_not_support_are_an_error(
    params: Params, group: str, changes: dict, message: str
) -> None:
    raw = params.model_dump(by_alias=True)
    if group == "method":
        raw["train"]["lora_rank"] = 4
    raw[group].update(changes)
    with pytest.raises(ConfigError, match=message):
        validate(raw, "params.yaml")
