"""A teacher with weights in bfloat16: one copy for all networks with adapters, which train, sample and merge."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.config import Params
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.networks import Networks
from dmd.distillation.setup import new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.generator.adapters import merge_adapters
from dmd.networks.half import halve
from dmd.networks.wrapper import unwrap
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.training import NO_PAIRS, alone, short_training

BF16 = torch.bfloat16


def halved(teacher: Teacher, params: Params, ranks: tuple[int, int]) -> tuple[Any, Networks, Any]:
    """DMD on a teacher in bfloat16: method, networks and training config."""
    cfg = short_training(params, generator_turns=2, batch_size=2, generator_batch_size=2, warmup_turns=0)
    cfg = cfg.model_copy(
        update={"frozen_precision": "bf16", "lora_rank": ranks[0], "lora_rank_critic": ranks[1], "lora_alpha": 0}
    )
    data = TrainingImages(torch.empty(0, *teacher.shape), torch.arange(2))
    method = METHODS["dmd"](params.method.model_copy(update={"critic_turns": 1}), 1000, NO_PAIRS, data)
    return method, new_networks(method, teacher, cfg, "none", CPU), cfg


@pytest.mark.parametrize("kind", ["sana", "sd3"])
def test_predictions_stay_near_those_of_float32(folders: dict[str, Path], kind: str) -> None:
    teacher = load_teacher(folders[kind], CPU, 2.0, CAPTIONS)
    x, t, y = torch.randn(4, *teacher.shape), torch.tensor([100, 400, 700, 999]), torch.arange(4)
    exact = teacher.guided(x, t, y)
    halve(teacher.guided)
    close = teacher.guided(x, t, y)
    assert close.dtype == torch.float32
    assert 0 < (close - exact).std() < 0.05 * exact.std()


def test_adapters_share_the_copy_and_train_in_float32(folders: dict[str, Path], params: Params) -> None:
    teacher = load_teacher(folders["sana"], CPU, 2.0, CAPTIONS)
    method, nets, cfg = halved(teacher, params, (2, 2))
    own = {id(p) for p in teacher.denoiser.parameters()}
    shared = [p for p in teacher.denoiser.parameters() if p.dtype == BF16]
    whole = sum(p.numel() for p in teacher.denoiser.parameters())
    assert sum(p.numel() for p in shared) > 0.9 * whole
    for net in (nets.generator, nets.critic):
        assert all(id(p) in own for p in net.parameters() if not p.requires_grad)
        assert all(p.dtype == torch.float32 for p in net.parameters() if p.requires_grad)
    before = {k: v.clone() for k, v in nets.generator.state_dict().items()}
    state = TrainState(nets, cfg)
    rows = list(train(state, method, cfg, teacher.shape, torch.arange(10), alone()))
    assert len(rows) == 2 and all(torch.isfinite(torch.tensor(row["generator_dm"])) for row in rows)
    moved = {k for k, v in nets.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all("lora_" in k for k in moved)
    merged = merge_adapters(unwrap(nets.generator.net))
    assert {p.dtype for p in merged.parameters()} == {torch.float32} and shared[0].dtype == BF16


@pytest.mark.parametrize("kind", ["sd3", "sdxl"])
def test_a_teacher_that_is_loaded_in_bf16_gives_the_same_networks(
    folders: dict[str, Path], params: Params, kind: str
) -> None:
    """peft would round adapters beside such weights; heads on the critic and adapters are those of a float32 load."""
    run = params.model_copy(update={"method": params.method.model_copy(update={"name": "dmd2"})})
    data = TrainingImages(torch.zeros(2, *load_teacher(folders[kind], CPU, captions=CAPTIONS).shape), torch.arange(2))
    states = []
    for precision in ("fp32", "bf16"):
        teacher = load_teacher(folders[kind], CPU, 2.0, CAPTIONS, precision=precision)
        update = {"frozen_precision": "bf16", "lora_rank": 2, "lora_rank_critic": 3}
        cfg = params.train.model_copy(update=update)
        nets = new_networks(METHODS["dmd2"](run.method, 1000, NO_PAIRS, data), teacher, cfg, "none", CPU)
        assert nets.critic_heads is not None
        modules = (nets.teacher, nets.generator, nets.critic, nets.critic_heads)
        trained = [p for net in modules for p in net.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        own = {id(p) for p in nets.teacher.parameters()}
        assert all(id(p) in own for p in nets.generator.parameters() if not p.requires_grad)
        states.append([net.state_dict() for net in modules])
    for whole, half in zip(*states, strict=True):
        assert whole.keys() == half.keys()
        assert all(v.dtype == half[k].dtype and torch.equal(v, half[k]) for k, v in whole.items())


def test_only_a_teacher_of_adapters_is_loaded_in_bf16(params: Params) -> None:
    def loaded(**changes: Any) -> str:
        return params.train.model_copy(update=changes).teacher_precision

    both = {"lora_rank": 2, "lora_rank_critic": 2}
    assert loaded(frozen_precision="bf16", **both) == "bf16"
    assert loaded(frozen_precision="fp32", **both) == loaded(frozen_precision="int8", **both) == "fp32"
    assert loaded(frozen_precision="bf16", lora_rank=2) == loaded(frozen_precision="bf16", lora_rank_critic=2) == "fp32"


def test_weights_that_train_stay_in_float32(folders: dict[str, Path], params: Params) -> None:
    _, nets, _ = halved(load_teacher(folders["sana"], CPU, 2.0, CAPTIONS), params, (0, 0))
    assert all(p.dtype == torch.float32 for net in (nets.generator, nets.critic) for p in net.parameters())
    assert any(p.dtype == BF16 for p in nets.teacher.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp16"}, "frozen_precision: bf16 does not go with precision: fp16"),
        ({"shard": "full", "lora_rank": 2}, "FSDP shards weights of one type only"),
    ],
)
def test_settings_that_it_does_not_support_are_one_line(params: Params, changes: dict[str, Any], words: str) -> None:
    cfg = params.train.model_dump()
    with pytest.raises(ValueError, match=words):
        type(params.train).model_validate({**cfg, "frozen_precision": "bf16", **changes})
