"""A teacher with weights of int8 (torchao): near the float one, one copy for all adapters, which train and merge."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmd.config import Params
from dmd.distillation import lora
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.lora import quantize
from dmd.distillation.methods import METHODS
from dmd.distillation.setup import new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.generator.adapters import merge_adapters
from dmd.networks.wrapper import unwrap
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.training import NO_PAIRS, alone, short_training


def stored_bytes(layer: nn.Linear) -> int:
    """Bytes of the tensors that a weight is made of."""
    weight: Any = layer.weight
    names = weight.__tensor_flatten__()[0] if hasattr(weight, "__tensor_flatten__") else []
    parts = [getattr(weight, name) for name in names] or [weight]
    return sum(part.numel() * part.element_size() for part in parts)


def linear(net: nn.Module) -> list[nn.Linear]:
    return [module for module in net.modules() if isinstance(module, nn.Linear)]


def setting(teacher: Teacher, params: Params, ranks: tuple[int, int]) -> tuple[Any, Any]:
    """DMD with two generator turns and a teacher of int8: method and training config."""
    cfg = short_training(params, generator_turns=2, batch_size=2, generator_batch_size=2, warmup_turns=0)
    cfg = cfg.model_copy(
        update={"frozen_precision": "int8", "lora_rank": ranks[0], "lora_rank_critic": ranks[1], "lora_alpha": 0}
    )
    data = TrainingImages(torch.empty(0, *teacher.shape), torch.arange(2))
    return METHODS["dmd"](params.method.model_copy(update={"critic_turns": 1}), 1000, NO_PAIRS, data), cfg


@pytest.mark.parametrize("kind", ["sana", "sd3"])
def test_predictions_stay_near_those_of_float32_in_a_quarter_of_the_memory(folders: dict[str, Path], kind: str) -> None:
    pytest.importorskip("torchao")
    teacher = load_teacher(folders[kind], CPU, 2.0, CAPTIONS)
    x, t, y = torch.randn(4, *teacher.shape), torch.tensor([100, 400, 700, 999]), torch.arange(4)
    exact = teacher.guided(x, t, y)
    before = sum(map(stored_bytes, linear(teacher.denoiser)))
    quantize(teacher.guided, [])
    close = teacher.guided(x, t, y)
    assert close.dtype == torch.float32 and 0 < (close - exact).std() < 0.05 * exact.std()
    rows = sum(layer.out_features for layer in linear(teacher.denoiser))
    assert sum(map(stored_bytes, linear(teacher.denoiser))) == before // 4 + 5 * rows  # a scale and a zero point


def test_adapters_share_the_copy_train_and_merge(folders: dict[str, Path], params: Params) -> None:
    pytest.importorskip("torchao")
    teacher = load_teacher(folders["sana"], CPU, 2.0, CAPTIONS)
    method, cfg = setting(teacher, params, (2, 2))
    nets = new_networks(method, teacher, cfg, "none", CPU)
    state = TrainState(nets, cfg)
    own = {id(layer.weight) for layer in linear(teacher.denoiser)}
    for net in (nets.generator, nets.critic, *state.averages.values()):
        assert own <= {id(layer.weight) for layer in linear(net)}
        assert all(p.dtype == torch.float32 for p in net.parameters() if p.requires_grad)
    before = {k: v.clone() for k, v in nets.generator.named_parameters() if v.requires_grad}
    rows = list(train(state, method, cfg, teacher.shape, torch.arange(10), alone()))
    assert len(rows) == 2 and all(torch.isfinite(torch.tensor(row["generator_dm"])) for row in rows)
    assert all("lora_" in k for k in before)
    assert any(not torch.equal(v, before[k]) for k, v in nets.generator.named_parameters() if k in before)
    x, t, y = torch.randn(2, *teacher.shape), torch.tensor([500, 900]), torch.arange(2)
    output = nets.generator(x, t, y)
    merged = merge_adapters(unwrap(nets.generator.net))
    assert {type(p) for p in merged.parameters()} == {nn.Parameter}
    assert {p.dtype for p in merged.parameters()} == {torch.float32}
    plain = load_teacher(folders["sana"], CPU, 1.0, CAPTIONS).denoiser
    unwrap(plain.net).load_state_dict(merged.state_dict())
    torch.testing.assert_close(plain(x, t, y), output, rtol=1e-4, atol=1e-4)


def test_weights_that_train_stay_in_float32(folders: dict[str, Path], params: Params) -> None:
    pytest.importorskip("torchao")
    teacher = load_teacher(folders["sana"], CPU, 2.0, CAPTIONS)
    method, cfg = setting(teacher, params, (0, 0))
    nets = new_networks(method, teacher, cfg, "none", CPU)
    assert {type(p) for net in (nets.generator, nets.critic) for p in net.parameters()} == {nn.Parameter}
    assert any(type(p) is not nn.Parameter for p in nets.teacher.parameters())


def test_a_missing_package_is_one_line(
    folders: dict[str, Path], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lora, "find_spec", lambda _name: None)
    teacher = load_teacher(folders["sana"], CPU, 2.0, CAPTIONS)
    method, cfg = setting(teacher, params, (0, 0))
    with pytest.raises(ConfigError, match=r"frozen_precision: int8 needs torchao.*pip install '\.\[int8\]'"):
        new_networks(method, teacher, cfg, "none", CPU)
