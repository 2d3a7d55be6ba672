"""The turns of fd_loss and mmd_loss: their phases, gradients, running state, checkpoints and divided batches."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmd.config import Params, load_params
from dmd.distillation.methods import Method, check_method
from dmd.distillation.methods.base import Setting
from dmd.distillation.moments.frechet import Sums
from dmd.distillation.parallel.sharding import gather
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.samplers.few_step import generate
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import Pairs
from tests.helpers.gan.matching import matching_method, matching_networks
from tests.helpers.gan.trunks import FROZEN
from tests.helpers.parallel.processes import join, start_together
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT
from tests.helpers.sources import reals, split
from tests.helpers.training import alone, short_training

SHAPE = (1, 8, 8)
LABELS = split().labels
PAIRS = Pairs(torch.randn(12, *SHAPE), torch.rand(12, *SHAPE), torch.arange(12) % 10)


def state_of(m: Method, params: Params, turns: int = 3, double: bool = False, **changes: object) -> TrainState:
    return TrainState(matching_networks(m, double), short_training(params, generator_turns=turns, **changes))


def run(
    m: Method, state: TrainState, params: Params, turns: int = 3, until: int | None = None, workers: Any = None
) -> list[dict[str, Any]]:
    """Train, and return the rows of the log. until: turns to stop after."""
    cfg = short_training(params, generator_turns=turns)
    return list(islice(train(state, m, cfg, SHAPE, LABELS, workers or alone()), until))


def everything(state: TrainState) -> dict[str, Tensor]:
    """Copies of the weights of the generator and of all statistics."""
    assert state.nets.estimators is not None
    parts = {"generator": state.nets.generator, "estimators": state.nets.estimators, "ema": state.averages[20000]}
    return {f"{n}.{k}": gather(v).clone() for n, part in parts.items() for k, v in part.state_dict().items()}


@pytest.mark.parametrize("name", ["fd_loss", "mmd_loss"])
def test_only_the_generator_learns_and_the_distance_falls(params: Params, name: str) -> None:
    m = matching_method(params, name, {"decay": 0.0})
    state = state_of(m, params, 40)
    frozen = {k: v.clone() for k, v in m.frozen[FROZEN].state_dict().items()}
    teacher = {k: v.clone() for k, v in state.nets.teacher.state_dict().items()}
    rows = run(m, state, params, 40)
    column = f"generator_{name.partition('_')[0]}_efficientnet_lite1"
    first, last = (sum(r[column] for r in part) for part in (rows[:10], rows[-10:]))
    assert last < 0.8 * first and state.nets.trained == ("generator",)
    assert {row["phase"] for row in rows} == {name.partition("_")[0]}
    assert all(torch.equal(v, frozen[k]) for k, v in m.frozen[FROZEN].state_dict().items())
    assert all(torch.equal(v, teacher[k]) for k, v in state.nets.teacher.state_dict().items())


def test_the_running_moments_start_from_the_data_and_the_first_generator(params: Params) -> None:
    m = matching_method(params, "fd_loss", {"images": 300})  # in two chunks
    state = state_of(m, params)
    nets, seen = state.nets, dict[str, Tensor]()
    start = m.begin  # type: ignore[attr-defined]

    def spy(nets: Any, draw: Any) -> None:
        start(nets, draw)
        z, cond = draw(range(300))
        with torch.no_grad():
            x = generate(nets.generator, z, m.generator_times, cond)
            seen.update({"x": m.features(x)[FROZEN], "data": m.features(reals().x)[FROZEN]})  # type: ignore[attr-defined]
        seen.update({k: v.clone() for k, v in nets.estimators[0].state_dict().items()})

    m.begin = spy  # type: ignore[attr-defined]
    run(m, state, params, until=1)
    assert nets.estimators is not None
    sums = Sums()
    sums.add(seen["x"])
    torch.testing.assert_close(seen["mean"], sums.moments()[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen["second"], sums.moments()[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen["real_mean"], seen["data"].mean(0))
    covariance = torch.cov(seen["data"].T, correction=0)
    torch.testing.assert_close(seen["real_root"] @ seen["real_root"], covariance, rtol=1e-6, atol=1e-9)
    now = nets.estimators.state_dict()
    assert not torch.equal(now["0.mean"], seen["mean"]) and torch.equal(now["0.real_mean"], seen["real_mean"])


def test_training_images_are_taken_at_equal_distances(params: Params) -> None:
    m = matching_method(params, "fd_loss", {"images": 16})
    nets = matching_networks(m)
    (chunk,) = m.features_of_data(next(nets.generator.parameters()))  # type: ignore[attr-defined]
    every = [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]  # of 40
    torch.testing.assert_close(chunk[0], m.features(reals().x[every])[FROZEN])  # type: ignore[attr-defined]


def test_all_levels_of_a_network_have_a_distance_each(params: Params) -> None:
    m = matching_method(params, "fd_loss", {"levels": "all"})
    (row,) = run(m, state_of(m, params), params, until=1)
    columns = {k for k in row if k.startswith("generator_fd")}
    assert columns == {"generator_fd_efficientnet_lite1.outer", "generator_fd_efficientnet_lite1.inner"}


@pytest.mark.parametrize("name", ["fd_loss", "mmd_loss"])
@pytest.mark.parametrize("stop", [1, 3])  # after the warm start, and between two turns of the loss
def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, stop: int
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))

    def resume(until: int | None, saved: dict[str, Any] | None = None) -> tuple[TrainState, list[dict[str, Any]]]:
        m = matching_method(params, name, pairs=PAIRS, regression_weight=0.5)
        cfg = short_training(params, warm=(1, 0), generator_turns=4)
        state = TrainState(matching_networks(m), cfg)
        if saved is not None:
            state.load_state_dict(saved)
        return state, list(islice(train(state, m, cfg, SHAPE, LABELS, alone()), until))

    whole, rows = resume(None)
    Scratch("train", {}, {}).save(resume(stop)[0].state_dict())
    again, rest = resume(None, Scratch("train", {}, {}).load())
    assert repr(rest) == repr(rows[stop:]) and len(rows) == 5
    a, b = everything(whole), everything(again)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["fd_loss", "mmd_loss"])
def test_parts_of_a_batch_equal_the_whole(params: Params, name: str) -> None:
    """In float64: the features of all parts are compared at once, and the statistics move by all of them."""
    pairs, results = Pairs(PAIRS.z.double(), PAIRS.x.double(), PAIRS.labels), []
    for parts in (1, 4):
        m = matching_method(params, name, pairs=pairs, regression_weight=0.5)
        state = state_of(m, params, double=True)
        results.append((everything(state), run(m, state, params, workers=alone(parts)), everything(state)))
    (start, rows, one), (_, others, four) = results
    assert any(not torch.equal(start[k], one[k]) for k in one if k.startswith("estimators"))
    for key, weight in one.items():
        torch.testing.assert_close(four[key], weight, rtol=0, atol=1e-8, msg=key)
    assert [r["generator_total"] for r in others] == pytest.approx([r["generator_total"] for r in rows], rel=1e-8)


def train_in_process(rank: int, processes: int, port: int, name: str, out: Path) -> None:
    workers = join(rank, processes, port, parts=2)
    params = load_params(ROOT / "params.yaml")
    m = matching_method(params, name)
    state = state_of(m, params, double=True)
    run(m, state, params, workers=workers)
    torch.save(everything(state), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fd_loss", "mmd_loss"])
def test_two_processes_with_two_parts_each_equal_one(params: Params, tmp_path: Path, name: str) -> None:
    start_together(train_in_process, 2, name, tmp_path)
    m = matching_method(params, name)
    state = state_of(m, params, double=True)
    run(m, state, params)
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, weight in everything(state).items():
            torch.testing.assert_close(other[key], weight, rtol=0, atol=1e-8, msg=key)


def test_the_anchor_adds_the_regression_loss_on_pairs(params: Params) -> None:
    m = matching_method(params, "fd_loss", pairs=PAIRS, regression_weight=2.0)
    (row,) = run(m, state_of(m, params), params, until=1)
    distance = row["generator_fd_efficientnet_lite1"]
    expected = distance / (distance + 0.01) + 2 * row["generator_regression"]
    assert row["generator_total"] == pytest.approx(expected, rel=1e-5)


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"moments": {"networks": []}}, "method.moments.networks: fd_loss needs a network"),
    ({"moments": {"networks": ["vgg"]}}, "method.moments.networks: 'vgg' is not a frozen network"),
    ({"moments": {"networks": [FROZEN, FROZEN]}}, "method.moments.networks: a network is listed twice"),
    ({"steps": 2}, "method.steps: fd_loss trains a generator of one step; use 1"),
    ({"critic_average": 0.9}, "method.critic_average: fd_loss has no critic; use 0.0"),
]


@pytest.mark.parametrize(("changes", "words"), PROBLEMS)
def test_what_fd_loss_cannot_do_is_one_line(params: Params, changes: dict[str, Any], words: str) -> None:
    values = {**params.method.moments.model_dump(), "networks": [FROZEN], **changes.pop("moments", {})}
    moments = params.method.moments.model_copy(update=values)
    with pytest.raises(ConfigError) as error:
        check_method(with_values(params, method={"name": "fd_loss", "moments": moments, **changes}))
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_fd_loss_needs_images(params: Params) -> None:
    moments = params.method.moments.model_copy(update={"networks": [FROZEN]})
    run_params = with_values(params, method={"name": "fd_loss", "moments": moments})
    with pytest.raises(ConfigError) as error:
        check_method(run_params, Setting(on_pixels=False, has_images=False, pairs=1))
    assert [line.split(",")[0] for line in str(error.value).splitlines()] == ["method.name: fd_loss needs images"] * 2
