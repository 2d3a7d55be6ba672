"""Compiled networks train like eager ones and keep their names, and settings that they do not support are one line."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from dmd.config import Params, Shard, TrainConfig, load_params, validate
from dmd.diffusion.pipelines import save_pipeline
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.setup import new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.networks.compilation import CACHE, compile_networks
from dmd.storage.checkpoint import Scratch
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU, lively, scheduler
from tests.helpers.parallel.processes import join, start_together
from tests.helpers.projects import ROOT
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.hub_folders import hub_folder
from tests.helpers.training import NO_PAIRS, alone, short_training

Rows = list[dict[str, Any]]
SLOW = pytest.mark.slow
TOLERANCE = 2e-5  # after two turns, code of the compiler on a CPU had changed weights by 2.7e-6 and the log by 3e-7
FRESH = pytest.mark.usefixtures("fresh_compiler")


def save_tiny(folder: Path) -> Path:
    """Save a teacher of few layers, since the compiler takes seconds for each."""
    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8,), norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=11, add_attention=False,
    )  # fmt: skip
    save_pipeline(lively(net), scheduler(), folder)
    return folder


class Training(NamedTuple):
    """A training that has not begun, or its present state."""

    method: Method
    cfg: TrainConfig
    state: TrainState


@pytest.fixture
def fresh_compiler(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the compiler write to a folder of the test, and forget what it compiled for the test before."""
    torch.compiler.reset()
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    monkeypatch.setenv(CACHE, "")
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


def stop_early(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Generate no code, which takes minutes. eager: trace the networks; aot_eager: trace their gradients, too."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda call, mode: compiler(call, backend=backend))


def new_training(folder: Path, params: Params, **changes: Any) -> Training:
    """A dmd2 training whose discriminator reads the critic. changes: to `train`."""
    teacher = load_teacher(folder, CPU, captions=CAPTIONS)
    sizes = {"generator_turns": 4, "batch_size": 4, "generator_batch_size": 2}
    cfg = short_training(params, **(sizes | changes))
    gan = params.method.gan.model_copy(update={"weight": 0.1, "critic_weight": 0.1, "r1_weight": 0.1})
    rng = torch.Generator().manual_seed(1)
    data = TrainingImages(torch.randn(12, *teacher.shape, generator=rng), torch.arange(12) % 10)
    method = METHODS["dmd2"](
        params.method.model_copy(update={"name": "dmd2", "critic_turns": 2, "gan": gan}), 1000, NO_PAIRS, data
    )
    return Training(method, cfg, TrainState(new_networks(method, teacher, cfg, "none", CPU), cfg))


def run(training: Training, turns: int = 2, workers: Workers | None = None) -> Rows:
    """Take generator turns, and return their rows."""
    method, cfg, state = training
    shape = tuple(method.data.x.shape[1:])
    return list(islice(train(state, method, cfg, shape, torch.arange(10), workers or alone()), turns))  # type: ignore[arg-type]


def compiled_parts(net: nn.Module) -> list[str]:
    """Names of the modules of a network that are compiled; "" is the network itself."""
    return [name for name, module in net.named_modules() if module._compiled_call_impl is not None]


def whole_weights(state: TrainState) -> dict[str, Tensor]:
    """The weights of generator and critic, gathered from all processes."""
    nets = {name: state.nets.trained_in(name) for name in ("generator", "critic")}
    return {f"{name}.{k}": gather(v) for name, net in nets.items() for k, v in net.state_dict().items()}


def assert_close(state: TrainState, rows: Rows, other: TrainState, others: Rows) -> None:
    """The numbers of both rows, and all weights of both states, are equal up to TOLERANCE."""
    for row, same in zip(rows, others, strict=True):
        assert row.keys() == same.keys()
        numbers = {key: value for key, value in row.items() if isinstance(value, float) and value == value}
        assert {key: same[key] for key in numbers} == pytest.approx(numbers, rel=TOLERANCE, abs=TOLERANCE)
    weights, same = whole_weights(state), whole_weights(other)
    assert weights.keys() == same.keys()
    for key, value in weights.items():
        torch.testing.assert_close(same[key], value, rtol=TOLERANCE, atol=TOLERANCE, msg=key)


def names(state: dict[str, Any], prefix: str = "") -> set[str]:
    """Names of all tensors and numbers in nested dicts."""
    nested = (names(v, f"{prefix}{k}.") if isinstance(v, dict) else {f"{prefix}{k}"} for k, v in state.items())
    return set().union(*nested)


@FRESH
@SLOW
@pytest.mark.long
def test_a_compiled_training_equals_an_eager_one(tmp_path: Path, params: Params) -> None:
    folder = save_tiny(tmp_path / "teacher")
    eager, compiled = (new_training(folder, params, compile=mode) for mode in ("none", "default"))
    rows, others = (run(each) for each in (eager, compiled))
    assert_close(eager.state, rows, compiled.state, others)
    assert any(Path(os.environ[CACHE]).rglob("*.so"))


@FRESH
@SLOW
@pytest.mark.parametrize(
    ("kind", "changes", "blocks"),
    [
        ("tiny", {"gradient_checkpointing": True}, set()),
        ("sd", {"lora_rank": 2, "lora_rank_critic": 2}, {"BasicTransformerBlock"}),
        ("flux", {"gradient_checkpointing": True}, {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
    ],
)
def test_repeated_blocks_or_whole_networks_are_compiled(
    tmp_path: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    changes: dict[str, Any],
    blocks: set[str],
) -> None:
    """The networks have adapters, or recompute their activations, and train like eager ones."""
    stop_early(monkeypatch, "aot_eager")
    folder = save_tiny(tmp_path / kind) if kind == "tiny" else hub_folder(kind, tmp_path / kind)
    eager, compiled = (new_training(folder, params, compile=mode, **changes) for mode in ("none", "default"))
    for net in (getattr(compiled.state.nets, name).net for name in ("teacher", "generator", "critic")):
        modules = dict(net.named_modules())
        parts = compiled_parts(net)
        assert {type(modules[name]).__name__ for name in parts if blocks} == blocks and (blocks or parts == [""])
    assert all(compiled_parts(average) == [] for average in compiled.state.averages.values())
    assert_close(eager.state, run(eager), compiled.state, run(compiled))


@FRESH
@SLOW
def test_a_checkpoint_of_a_compiled_training_continues_eagerly_and_the_reverse(
    tmp_path: Path, params: Params, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_early(monkeypatch, "eager")
    folder = save_tiny(tmp_path / "teacher")
    whole = new_training(folder, params)
    rows = run(whole, 4)
    for first, second in (("default", "none"), ("none", "default")):
        begun, continued = (new_training(folder, params, compile=mode) for mode in (first, second))
        run(begun)
        assert [compiled_parts(each.state.nets.critic.net) for each in (begun, continued)].count([""]) == 1
        assert names(begun.state.networks_state()) == names(whole.state.networks_state())
        scratch.save(begun.state.state_dict())
        saved = scratch.load()
        assert saved is not None
        continued.state.load_state_dict(saved)
        assert_close(whole.state, rows[2:], continued.state, run(continued))


def train_in_process(rank: int, processes: int, port: int, folder: Path, shard: Shard, out: Path) -> None:
    workers = join(rank, processes, port)
    stop_early(pytest.MonkeyPatch(), "aot_eager")
    training = new_training(folder, load_params(ROOT / "params.yaml"), compile="default", shard=shard)
    run(training, 1, workers)
    torch.save(whole_weights(training.state), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@SLOW
@pytest.mark.parametrize("shard", ["none", "full"])
def test_compiled_networks_may_be_laid_out_over_processes(tmp_path: Path, params: Params, shard: Shard) -> None:
    """Two processes over gloo, with compiled networks, equal one with eager ones."""
    folder = save_tiny(tmp_path / "teacher")
    start_together(train_in_process, 2, folder, shard, tmp_path)
    one = new_training(folder, params)
    run(one, 1)
    whole = whole_weights(one.state)
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, weight in whole.items():
            torch.testing.assert_close(other[name], weight, rtol=1e-4, atol=1e-4, msg=name)


@FRESH
def test_compiled_code_is_kept_where_the_user_says_or_with_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for unset in ("", default_cache_dir()):  # torch itself sets the variable to its default
        monkeypatch.setenv(CACHE, unset)
        compile_networks([nn.Linear(1, 1)], "default")
        assert Path(os.environ[CACHE]) == Path(os.environ["DMD_SCRATCH"]) / "compiled"
    monkeypatch.setenv(CACHE, "/own")
    compile_networks([nn.Linear(1, 1)], "default")
    assert os.environ[CACHE] == "/own"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offload": "teacher"}, "compile: compiled code cannot move the layers of an offloaded teacher"),
        (
            {"compile": "reduce-overhead", "accumulate": 2},
            "compile: reduce-overhead overwrites the gradients",
        ),
        ({"compile": "reduce-overhead", "processes": 2}, "compile: reduce-overhead needs weights at fixed places"),
    ],
)
def test_settings_that_do_not_go_with_it_are_one_line(params: Params, changes: dict[str, Any], words: str) -> None:
    cfg = {**params.train.model_dump(), "launcher": "torchrun", "compile": "default", **changes}
    with pytest.raises(ValueError, match=words) as error:
        type(params.train).model_validate(cfg)
    assert error.value.error_count() == 1  # type: ignore[attr-defined]


def test_a_compiled_teacher_has_no_second_derivative_for_an_exact_penalty(params: Params) -> None:
    raw = params.model_dump(by_alias=True)
    raw["train"]["compile"] = "default"
    raw["method"]["gan"] |= {"trunks": ["teacher"], "trunk_r1_weight": 1.0}
    with pytest.raises(ConfigError, match=r"method.gan.penalty: exact needs second derivatives, .* set train.compile"):
        validate(raw, "params.yaml")
    raw["method"]["gan"]["penalty"] = "finite_difference"
    validate(raw, "params.yaml")
