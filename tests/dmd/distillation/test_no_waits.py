"""No turn makes the host wait for a GPU.

It reads no value, selects by no mask, and copies no tensor from or to the CPU. The tensors hold no data (device meta).
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.without_data import without_data
from dmd.config import Params
from dmd.data.shards import Rows, Shard
from dmd.diffusion.denoiser import Guided
from dmd.distillation import trainer
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.phases import Phase, Turn
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.distillation.turn_log import TurnLog
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.faults.waits import Watch
from tests.helpers.gan.trunks import FROZEN, small_trunk
from tests.helpers.networks import unet_denoiser
from tests.helpers.training import alone, short_training

SHAPE = (1, 8, 8)
GDD_TURNS = {"discriminator_warm_up discriminator", "adversarial discriminator", "adversarial generator"}
MATCHING = {"fd_loss": {"fd generator"}, "mmd_loss": {"mmd generator"}}
TURNS = {"warm_start generator", "catch_up critic", "distill critic", "distill generator"}


def new_method(
    name: str, params: Params, steps: int, images: torch.Tensor | Rows, pairs: torch.Tensor | Rows | None = None
) -> Method:
    """A method with all its losses, two phases and pairs, whose noise and images are `pairs`."""
    changes: dict[str, object] = {"weight": 0.1, "critic_weight": 0.1, "r1_weight": 0.1, "from_turn": 1}
    if name == "gdd":
        changes |= {"trunks": ["teacher:encoder"], "warmup_turns": 1, "augment": True, "mixing": "channels_and_scales"}
        changes |= {"trunk_r1_weight": 0.1, "trunk_r2_weight": 0.1, "penalty_every": 1, "loss": "relativistic"}
    gan = params.method.gan.model_copy(update=changes)
    moments = params.method.moments.model_copy(update={"networks": [FROZEN], "levels": "all"})
    changes = {
        "name": name,
        "critic_turns": 1,
        "regression_weight": 0.1,
        "gan": gan,
        "steps": steps,
        "moments": moments,
    }
    if name not in ("gdd", *MATCHING):
        changes |= {"projection": True, "critic_interpolation": 0.9, "critic_average": 0.9}
    x, labels = torch.zeros(20, *SHAPE), torch.zeros(20, dtype=torch.long)
    none = TrainingImages(x[:0], labels[:0])  # a method reads the statistics of its images when it is made
    frozen = {FROZEN: small_trunk()}
    method = METHODS[name](params.method.model_copy(update=changes), 1000, Pairs(x, x, labels), none, frozen=frozen)
    if pairs is not None:
        method.pairs = Pairs(pairs, pairs, torch.zeros(20, dtype=torch.long, device="cpu"))
    method.data_statistics = {"real_mean": torch.zeros((), device="cpu"), "real_std": torch.ones(())}
    device = None if isinstance(images, torch.Tensor) else "cpu"
    method.data = TrainingImages(images, torch.zeros(20, dtype=torch.long, device=device))
    return method


def waits(method: Method, params: Params, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The waits of each kind of turn (phase and network) in a short training."""
    cfg = short_training(params, warm=(1, 1), generator_turns=2)
    denoiser = unet_denoiser(0).requires_grad_(False)
    guided = Guided(denoiser, 2.0, 10, (0.1, 0.9)) if method.cfg.name == "decoupled" else denoiser
    state = TrainState(method.networks(Teacher(denoiser, guided, None, SHAPE, 11), 0), cfg)
    found: dict[str, list[str]] = {}
    take_turn = trainer.take_turn

    def watched(state: TrainState, phase: Phase, turn: Turn, *more: object) -> None:
        with Watch() as watch:
            take_turn(state, phase, turn, *more)  # type: ignore[arg-type]
        found.setdefault(f"{phase.name} {turn.network}", []).extend(watch.waits)

    monkeypatch.setattr(trainer, "take_turn", watched)
    monkeypatch.setattr(TurnLog, "read", lambda log: log.clear() or {})  # there are no numbers to read
    monkeypatch.setattr(TurnLog, "check", lambda log: log.clear())
    list(train(state, method, cfg, SHAPE, torch.zeros(20, dtype=torch.long, device="cpu"), alone()))
    return found


def test_no_turn_of_dmd2_makes_the_host_wait(params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its images and pairs are on disk; they are copied to the device before the turn that draws them."""
    save_file({"x": torch.rand(20, *SHAPE)}, tmp_path / "x.safetensors")
    rows = Rows([Shard.find(tmp_path / "x.safetensors", "x")])
    with without_data():
        found = waits(new_method("dmd2", params, 1, rows, rows), params, monkeypatch)
    assert {turn: waits for turn, waits in found.items() if waits} == {}
    assert set(found) == TURNS | {"adversarial critic", "adversarial generator"}


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_no_turn_of_any_method_makes_the_host_wait(params: Params, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The images are on the device. The GAN's methods have a generator of two steps."""
    with without_data():
        method = new_method(name, params, 1 if name in ("dmd", *MATCHING) else 2, torch.zeros(20, *SHAPE))
        found = waits(method, params, monkeypatch)
    # torch checks eigenvalues on the host: one wait for each of two levels, in each of two turns.
    known = {"fd generator": ["_linalg_eigh"] * 4} if name == "fd_loss" else {}
    assert {turn: waits for turn, waits in found.items() if waits} == known
    assert set(found) >= (MATCHING.get(name) or (GDD_TURNS if name == "gdd" else TURNS))


WAITS: list[Callable[[torch.Tensor], object]] = [
    lambda x: x.sum().item(),
    lambda x: torch.linalg.eigvalsh(x[:, None] * x),
    lambda x: bool(x.isfinite().all()),
    lambda x: x.tolist(),
    lambda x: x.nonzero(),
    lambda x: x[x > 0],
    lambda x: x.masked_select(x > 0),
    lambda x: x.unique(),
    lambda x: torch.equal(x, x),
    lambda x: torch.tensor([1.0], device=x.device),
    lambda x: x.new_tensor(1.0),
    lambda x: x.__setitem__(0, 1.0),
    lambda x: torch.zeros(3, device="cpu").to(x.device),
    lambda x: x.copy_(torch.zeros(3, device="cpu")),
    lambda x: x.cpu(),
]


def test_the_watch_sees_each_kind_of_wait() -> None:
    def waits_of(operation: Callable[[torch.Tensor], object]) -> list[str]:
        with without_data(), Watch() as watch, suppress(NotImplementedError, RuntimeError):
            operation(torch.zeros(3))
        return watch.waits

    assert waits_of(lambda x: torch.where(x > 0, x, 0.0).fill_(1.0)[torch.arange(2)]) == []
    assert [i for i, operation in enumerate(WAITS) if not waits_of(operation)] == []
