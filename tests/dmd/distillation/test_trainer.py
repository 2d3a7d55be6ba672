"""The loop: resume equals uninterrupted to the bit, budgets and averages count generator turns, errors stop the run."""

import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmd.config import Params, TrainConfig
from dmd.diffusion.networks import unwrap
from dmd.distillation.methods import METHODS
from dmd.distillation.networks import Networks
from dmd.distillation.run import distill
from dmd.distillation.setup import load_weights
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.errors import ConfigError
from dmd.generator.generator import Generator
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from dmd.training.ema import decay_of, update_ema
from dmd.training.optim import apply_gradients, backward, learning_rate, optimizer_step
from tests.helpers.data import reals
from tests.helpers.networks import toy_denoiser
from tests.helpers.training import alone, method

LABELS = torch.arange(10)
PAIRS = Pairs(torch.randn(12, 1, 8, 8), torch.rand(12, 1, 8, 8), torch.arange(12) % 10)


def small(params: Params, warm: tuple[int, int] = (0, 0), **changes: object) -> TrainConfig:
    start = params.train.warm_start.model_copy(update={"turns": warm[0], "critic_turns": warm[1], "batch_size": 4})
    base = {
        "ema_half_lives": [20000],
        "generator_turns": 6,
        "batch_size": 8,
        "generator_batch_size": 8,
        "warmup_turns": 2,
        "warm_start": start,
    }
    return params.train.model_copy(update={**base, **changes})


def copies(teacher: Teacher) -> Networks:
    return Networks(teacher.denoiser, teacher.denoiser.copy(), teacher.denoiser.copy())


def run(
    teacher: Teacher, params: Params, cfg: TrainConfig, state: TrainState, turns: int | None = None
) -> list[dict[str, float]]:
    m = method(params, PAIRS, critic_turns=3)
    return list(islice(train(state, m, cfg, teacher.shape, LABELS, alone()), turns))


def weights(state: TrainState) -> dict[str, Tensor]:
    nets = {"generator": state.nets.generator, "critic": state.nets.critic, "ema": state.averages[20000]}
    return {f"{n}.{k}": v.clone() for n, net in nets.items() for k, v in net.state_dict().items()}


@pytest.mark.parametrize("turns", [2, 4, 7])  # within the warm start, at its end, and after it
def test_resumed_equals_uninterrupted_to_the_bit(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    cfg = small(params, warm=(4, 2))
    whole = TrainState(copies(teacher), cfg)
    rows = run(teacher, params, cfg, whole)
    first = TrainState(copies(teacher), cfg)
    run(teacher, params, cfg, first, turns=turns)
    scratch = Scratch("train", {"a": 1}, {})
    scratch.save(first.state_dict())
    second = TrainState(copies(teacher), cfg)
    saved = Scratch("train", {"a": 1}, {}).load()
    assert saved is not None
    second.load_state_dict(saved)
    assert repr(run(teacher, params, cfg, second)) == repr(rows[turns:])  # nan, too, equals nan
    a, b = weights(whole), weights(second)
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_budgets_count_generator_turns(teacher: Teacher, params: Params) -> None:
    cfg = small(params)
    state = TrainState(copies(teacher), cfg)
    rows = run(teacher, params, cfg, state)
    assert [r["turn"] for r in rows] == [1, 2, 3, 4, 5, 6] and [r["step"] for r in rows] == [3, 6, 9, 12, 15, 18]


def test_each_turn_moves_its_own_network_and_the_average_moves_on_generator_turns(
    teacher: Teacher, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every single turn: which weights moved? The teacher's never do."""
    cfg = small(params, generator_turns=2)
    state = TrainState(copies(teacher), cfg)
    before = weights(state)
    frozen = {k: v.clone() for k, v in teacher.denoiser.state_dict().items()}
    moved: list[tuple[str, set[str]]] = []
    m = method(params, critic_turns=3)
    loss = m.loss

    def spy(turn: str, *args: object) -> dict[str, Tensor]:
        nonlocal before
        now = weights(state)
        changed = {k.split(".")[0] for k in now if not torch.equal(now[k], before[k])}
        moved.append((turn, changed))
        before = now
        return loss(turn, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(m, "loss", spy)
    list(train(state, m, cfg, teacher.shape, LABELS, alone()))
    # What had moved when each turn began, that is, what the turn before it did.
    assert [t for t, _ in moved] == ["critic", "critic", "critic", "generator"] * 2
    assert [c for _, c in moved] == [
        set(),
        {"critic"},
        {"critic"},
        {"critic"},
        {"generator", "ema"},
        {"critic"},
        {"critic"},
        {"critic"},
    ]
    assert all(torch.equal(v, frozen[k]) for k, v in teacher.denoiser.state_dict().items())


def test_the_warm_start_moves_no_critic_and_the_catch_up_no_generator(teacher: Teacher, params: Params) -> None:
    cfg = small(params, warm=(4, 2))
    state = TrainState(copies(teacher), cfg)
    start = weights(state)
    m = method(params, PAIRS, critic_turns=3)
    rows = train(state, m, cfg, teacher.shape, LABELS, alone())
    assert [row["phase"] for row in islice(rows, 4)] == ["warm_start"] * 4
    warm = weights(state)
    assert all(torch.equal(warm[k], start[k]) == k.startswith("critic") for k in warm if "conv" in k and "weight" in k)
    generator, seen = state.nets.generator, []
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    loss = m.loss

    def spy(turn: str, *args: object) -> dict[str, Tensor]:
        same = all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())
        seen.append((turn, same))
        return loss(turn, *args)  # type: ignore[arg-type]

    m.loss = spy  # type: ignore[method-assign]
    next(train(state, m, cfg, teacher.shape, LABELS, alone()))
    assert seen == [("critic", True)] * (2 + 3) + [("generator", True)]


def test_each_phase_starts_with_fresh_moments(teacher: Teacher, params: Params) -> None:
    cfg = small(params, warm=(4, 2))
    state = TrainState(copies(teacher), cfg)
    run(teacher, params, cfg, state, turns=5)  # four of the warm start, one of distribution matching
    assert {s["step"].item() for s in state.optimizers["generator"].state.values()} == {1.0}


def distilled(params: Params, teacher: Teacher, tmp_path: Path, scores: list[float], **changes: object) -> tuple:
    """`distill` with validation scores that are given; returns what it returns, and the generators that were judged."""
    cfg = small(
        params, generator_turns=5, validate_every=1, checkpoint_every=1, **{"validation_tolerance": 0.0, **changes}
    )
    seen: list[dict[str, Tensor]] = []

    def validate(generator: Generator, turn: int) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in generator.denoiser.state_dict().items()})
        return {"validation_fd": scores[turn - 1]}

    scratch = Scratch("train", {}, {})
    made = distill(
        method(params, PAIRS), copies(teacher), cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone()
    )
    return *made, seen


def test_the_best_generator_is_exported_not_the_last(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    generator, kept, rows, seen = distilled(params, teacher, tmp_path, [5.0, 2.0, 1.0, 3.0, 4.0])
    assert len(rows) == 5 and kept == 3
    assert all(torch.equal(v, seen[2][k]) for k, v in generator.denoiser.state_dict().items())


def test_within_the_tolerance_the_later_generator_is_kept(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1.2 is within a quarter of the lowest, 1.0; 1.3 is not, nor is 1.4, though it is near the one before it."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    scores = [2.0, 1.0, 1.2, 1.3, 1.4]
    _, kept, _, _ = distilled(params, teacher, tmp_path, scores, validation_tolerance=0.25)
    assert kept == 3


def test_a_generator_of_the_warm_start_is_no_candidate(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    generator, kept, rows, seen = distilled(params, teacher, tmp_path, [0.1, 0.1, 4.0, 3.0, 5.0, 9.0, 9.0], warm=(2, 1))
    assert len(rows) == 7 and kept == 4
    assert all(torch.equal(v, seen[3][k]) for k, v in generator.denoiser.state_dict().items())


def test_patience_ends_a_run_that_no_longer_improves(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    _, kept, rows, _ = distilled(params, teacher, tmp_path, [2.0, 1.0, 3.0, 3.0, 0.0], patience=2)
    assert (kept, len(rows)) == (2, 4)
    _, kept, again, seen = distilled(params, teacher, tmp_path, [0.0] * 5, patience=2)  # killed before its export
    assert (kept, repr(again), seen) == (2, repr(rows), [])


def test_patience_is_of_the_last_phase_and_counts_from_its_beginning(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plateau without the GAN is where the GAN begins, not the end; and it has its own turns to show a gain."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    gan = params.method.gan.model_copy(update={"from_turn": 3})
    cfg = small(params, generator_turns=9, validate_every=1, validation_tolerance=0.0, patience=2)
    m = METHODS["dmd2"](params.method.model_copy(update={"name": "dmd2", "gan": gan}), 1000, PAIRS, reals())
    scores = iter([1.0, 2.0, 3.0, 4.0, 0.5, 1.0, 1.0])

    def validate(generator: Generator, turn: int) -> dict[str, float]:
        return {"validation_fd": next(scores)}

    scratch = Scratch("train", {}, {})
    nets = m.networks(teacher, 0)
    _, kept, rows = distill(m, nets, cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone())
    assert [r["phase"] for r in rows] == ["distill"] * 3 + ["adversarial"] * 4 and kept == 5


def test_the_best_validation_is_kept(teacher: Teacher, params: Params) -> None:
    state = TrainState(copies(teacher), small(params))
    for turn, score in enumerate((3.0, 1.0, 2.0)):
        with torch.no_grad():
            next(state.averages[20000].parameters()).fill_(score)
        state.turn = turn
        state.keep_if_best(20000, score, 0.0)
    name = next(iter(state.averages[20000].state_dict()))
    assert (state.best.turn, state.best.score) == (1, 1.0) and (state.best.weights[name] == 1.0).all()


def test_the_average_is_the_closed_form() -> None:
    """ema_n = d^n ema_0 + (1 - d) sum d^(n-i) w_i."""
    net, ema = torch.nn.Linear(1, 1, bias=False).double(), torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        ema.weight.fill_(5.0)
        for value in (1.0, 2.0, 3.0):
            net.weight.fill_(value)
            update_ema(ema, net, 0.9)
    assert ema.weight.item() == pytest.approx(0.9**3 * 5 + 0.1 * (0.81 * 1 + 0.9 * 2 + 3), abs=1e-12)


def test_the_learning_rate_warms_up_and_decays() -> None:
    rates = [learning_rate(1.0, t, 4, 100, "cosine") for t in range(101)]
    assert (
        rates[0] == pytest.approx(0.2) and rates[100] == pytest.approx(0, abs=1e-12) and max(rates) == max(rates[3:6])
    )
    assert [learning_rate(1.0, t, 0, 100, "constant") for t in (0, 50, 99)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_learning_rates_count_the_turns_of_their_own_network(
    teacher: Teacher, params: Params, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    """Of three critic turns and one generator turn a step each, the generator's warm-up is not over thrice as soon."""
    cfg = small(params, lr_schedule=schedule)
    used: dict[str, list[float]] = {"generator": [], "critic": []}

    def noted(optimizer: torch.optim.Optimizer, net: torch.nn.Module, lr: float, clip: float, what: str, *more: object):
        used[what.split()[0]].append(lr)
        return apply_gradients(optimizer, net, lr, clip, what, *more)  # type: ignore[arg-type]

    monkeypatch.setattr("dmd.distillation.trainer.apply_gradients", noted)
    run(teacher, params, cfg, TrainState(copies(teacher), cfg))
    for turn, base, total in (("generator", cfg.lr_generator, 6), ("critic", cfg.lr_critic, 18)):
        assert used[turn] == [learning_rate(base, i, 2, total, schedule) for i in range(total)]


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(teacher: Teacher, params: Params) -> None:
    cfg = small(params)
    state = TrainState(copies(teacher), cfg)
    run(teacher, params, cfg, state, turns=1)
    with torch.no_grad():
        next(state.nets.critic.parameters()).fill_(float("nan"))
    before = weights(state)
    with pytest.raises(FloatingPointError, match="critic loss at generator turn 1, step 3 is nan"):
        run(teacher, params, cfg, state)
    assert all(torch.equal(v, before[k]) or "critic" in k for k, v in weights(state).items())


def test_the_gradient_is_clipped_per_network() -> None:
    net = torch.nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    before = net.weight.detach().clone()
    norm = optimizer_step(optimizer, net, 1000 * net(torch.ones(1, 4)).sum(), 1.0, 0.5, "loss")
    assert norm.item() == pytest.approx(2000) and (net.weight - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_of_several_averages_the_best_by_validation_is_kept(
    teacher: Teacher, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each average is validated; what comes back is the one with the lowest score, not the first or the last."""
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    cfg = small(params, generator_turns=3, validate_every=3, ema_half_lives=[1, 20, 5000], lr_generator=1e-2)
    nets, seen = copies(teacher), []

    def validate(generator: Generator, turn: int) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in generator.denoiser.state_dict().items()})
        return {"validation_fd": [2.0, 1.0, 3.0][len(seen) - 1]}

    scratch = Scratch("train", {}, {})
    kept, _, rows = distill(method(params, PAIRS), nets, cfg, teacher, LABELS, ("a",) * 10, scratch, validate, alone())
    assert len(seen) == 3 and rows[-1]["ema_half_life"] == 20
    assert all(torch.equal(v, seen[1][k]) for k, v in kept.denoiser.state_dict().items())
    assert not all(torch.equal(v, seen[0][k]) for k, v in kept.denoiser.state_dict().items())


def test_a_half_life_is_counted_in_images() -> None:
    """After so many images, in however many turns, half of the old average is left."""
    for images in (1, 64, 500):
        assert decay_of(4000, images) ** (4000 / images) == pytest.approx(0.5)


def test_checkpointed_gradients_are_the_same(teacher: Teacher, params: Params) -> None:
    """To the last bits: activations are computed again, not approximated; the GAN's hook sees them all the same."""
    cfg = small(params)
    for name in ("dmd", "dmd2"):
        m = METHODS[name](params.method.model_copy(update={"name": name}), 1000, PAIRS, reals())
        weights = []
        for checkpointed in (False, True):
            nets = m.networks(teacher, 0)
            if checkpointed:
                nets.checkpoint_gradients()
            learning = (nets.generator.net, nets.critic.net)
            assert [unwrap(net).is_gradient_checkpointing for net in learning] == [checkpointed] * 2
            state = TrainState(nets, cfg)
            list(islice(train(state, m, cfg, teacher.shape, LABELS, alone()), 2))
            weights.append([p.clone() for p in nets.generator.parameters()])
        for a, b in zip(*weights, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_monitors_of_a_batch_in_parts_are_those_of_the_parts_that_have_any(teacher: Teacher, params: Params) -> None:
    """One image a part, of one quarter of t each: no quarter that the batch has is lost, and a share stays a share."""
    cfg = small(params, generator_turns=1, batch_size=16, generator_batch_size=16)
    m = method(params, PAIRS, critic_turns=1)
    found = []
    for parts in (1, 16):
        state = TrainState(copies(teacher), cfg)
        found.append(next(train(state, m, cfg, teacher.shape, LABELS, alone(parts))))
    whole, split = found
    quarters = [f"generator_grad_t{i}" for i in range(4)]
    assert not any(math.isnan(whole[q]) for q in quarters)
    assert [split[q] for q in quarters] == pytest.approx([whole[q] for q in quarters], rel=1e-4)
    assert split["generator_clamped"] == whole["generator_clamped"] <= 1


def test_fp16_scales_the_loss_and_skips_a_step_that_overflows() -> None:
    """Weights stay where they are, the scale is halved, and the next step is made with the true gradient."""
    net = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
    start = net.weight.item()
    backward(net.weight.sum() * 3e38, "loss", scaler)  # finite, and beyond float32 once it is scaled
    apply_gradients(optimizer, net, 0.5, 10.0, "loss", scaler)
    assert net.weight.item() == start and scaler.get_scale() == 2.0
    backward(net.weight.sum() * 3.0, "loss", scaler)
    assert apply_gradients(optimizer, net, 0.5, 10.0, "loss", scaler).item() == pytest.approx(3.0)
    assert net.weight.item() == pytest.approx(start - 1.5)


def test_training_can_begin_from_a_finished_generator(teacher: Teacher, tmp_path: Path) -> None:
    """Its weights to the bit; a network of another shape is refused in one line."""
    finished = Generator(toy_denoiser(seed=5), (999,), (1, 8, 8), ())
    nets = Networks(toy_denoiser(), toy_denoiser(), toy_denoiser())
    load_weights(nets.generator, finished, tmp_path)
    assert all(torch.equal(v, finished.denoiser.state_dict()[k]) for k, v in nets.generator.state_dict().items())
    with pytest.raises(ConfigError, match=r"method.init_from: the network in .* is not one like the teacher's"):
        load_weights(teacher.denoiser.copy(), finished, tmp_path)
