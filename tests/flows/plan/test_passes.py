"""The predicted passes of each turn equal those of an actual turn, and a calculation by hand."""

import pytest
import torch

from dmd.config import GanConfig, Params
from dmd.diffusion.denoiser import Guided
from dmd.distillation.cost import turn_costs
from dmd.distillation.methods import METHODS
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from flows.plan.passes import ENCODER_SHARE, backward_passes, forward_passes
from tests.helpers.networks import unet_denoiser
from tests.helpers.params import with_values
from tests.helpers.sources import reals
from tests.helpers.training import draws


def test_images_are_counted_over_all_turns(params: Params) -> None:
    costs = turn_costs(params)
    images = {n: sum(c.images for c in costs if c.turn.network == n) for n in ("generator", "critic")}
    assert images == {"generator": 2000 * 128 + 150 * 192, "critic": (100 + 150 * 5) * 64}


@pytest.mark.parametrize(
    ("name", "weight", "r1", "scale", "trunk"),
    [("dmd", 0.0, 0.0, 1.0, "critic"), ("dmd", 0.5, 0.0, 3.0, "critic"), ("dmd2", 0.0, 0.0, 1.0, "critic"),
     ("dmd2", 0.25, 1.0, 2.0, "critic"), ("dmd2", 0.0, 1.0, 1.0, "image"), ("f_distill", 0.0, 1.0, 1.0, "critic"),
     ("f_distill", 0.0, 0.0, 1.0, "image")],
)  # fmt: skip
def test_predicted_passes_equal_those_of_an_actual_turn(
    params: Params, name: str, weight: float, r1: float, scale: float, trunk: str
) -> None:
    gan = GanConfig(**{**params.method.gan.model_dump(), "r1_weight": r1, "trunks": [trunk]})
    run = with_values(params, method={"name": name, "regression_weight": weight, "gan": gan}, guidance={"scale": scale})
    noise = torch.randn(9, 1, 8, 8)
    method = METHODS[name](run.method, 1000, Pairs(noise, noise.tanh(), torch.arange(9)), reals())
    denoiser = unet_denoiser(0).requires_grad_(False)
    teacher = Teacher(denoiser, Guided(denoiser, scale, 10) if scale > 1 else denoiser, None, (1, 8, 8), 11)
    nets = method.networks(teacher, 0)
    starts: list[int] = []
    ends: list[int] = []  # passes through an encoder alone are not in this list
    for net in (nets.teacher.net, nets.generator.net, nets.critic.net):
        net.register_forward_pre_hook(lambda _module, inputs: starts.append(len(inputs[0])))
        # An encoder alone has the hooks of its network, but is another module.
        net.register_forward_hook(lambda m, inputs, _output, net=net: ends.extend([len(inputs[0])] * (m is net)))
    expected = iter(turn_costs(run))
    for phase in method.phases(run.train):
        for turn in [turn.network for turn in phase.turns]:
            starts.clear()
            ends.clear()
            rng = draws(turn=turn)
            phase.loss(turn, nets, rng.noise(1, 8, 8), rng.integers(0, 10), rng)
            assert (cost := next(expected)).turn.network == turn
            passes = sum(ends) + ENCODER_SHARE * (sum(starts) - sum(ends))
            assert passes / 6 == forward_passes(cost.passes), (phase.name, turn)
    assert next(expected, None) is None


@pytest.mark.parametrize(
    ("method", "r1", "trunk", "critic", "generator"),
    [
        # Critic turn: generator and critic. Generator turn: generator, teacher and critic.
        ("dmd", 0.0, "critic", (2, 1), (3, 1)),
        # The critic's encoder reads generated and real images, and with R1 also perturbed real images.
        ("dmd2", 0.0, "critic", (3, 2), (3.5, 1.5)),
        ("dmd2", 1.0, "critic", (3.5, 2.5), (3.5, 1.5)),
        ("dmd2", 1.0, "image", (2, 1), (3, 1)),
        # f-distill's weight of a sample needs another encoder pass without gradient.
        ("f_distill", 1.0, "critic", (3.5, 2.5), (4, 1.5)),
    ],
)
def test_predicted_passes_equal_a_calculation_by_hand(
    params: Params, method: str, r1: float, trunk: str, critic: tuple[float, float], generator: tuple[float, float]
) -> None:
    gan = GanConfig(**{**params.method.gan.model_dump(), "r1_weight": r1, "trunks": [trunk], "from_turn": 0})
    values = {"name": method, "regression_weight": 0.0, "gan": gan, "steps": 1, "critic_turns": 5}
    run = with_values(params, method=values, guidance={"scale": 1.0})
    *_, critic_turn, generator_turn = turn_costs(run)  # the last phase
    assert (critic_turn.turn.network, generator_turn.turn.network) == ("critic", "generator")
    for cost, (forward, backward) in ((critic_turn, critic), (generator_turn, generator)):
        assert (forward_passes(cost.passes), backward_passes(cost.passes)) == (forward, backward)


@pytest.mark.parametrize(
    ("values", "accumulate", "forward", "backward"),
    [
        # A loss on the whole batch sees the features of all parts before any part has a gradient.
        ({"name": "fd_loss"}, 1, 1, 1),
        ({"name": "mmd_loss"}, 2, 2, 1),
        # The critic's average predicts in its place; decoupled guidance needs both predictions at a second time.
        ({"name": "dmd", "critic_average": 0.9}, 1, 3, 1),
        ({"name": "decoupled"}, 1, 5, 1),
    ],
)
def test_passes_of_further_methods_equal_a_calculation_by_hand(
    params: Params, values: dict, accumulate: int, forward: float, backward: float
) -> None:
    moments = params.method.moments.model_copy(update={"networks": ["efficientnet_lite1"]})
    scale = 2.0 if values["name"] == "decoupled" else 1.0
    method = {"regression_weight": 0.0, "moments": moments, **values}
    run = with_values(params, method=method, guidance={"scale": scale}, train={"accumulate": accumulate})
    *_, cost = turn_costs(run)
    assert cost.turn.network == "generator"
    assert (forward_passes(cost.passes), backward_passes(cost.passes)) == (forward, backward)


@pytest.mark.parametrize(("steps", "critic_turns", "forward"), [(1, 1, 1), (4, 1, 1), (1, 4, 1.75), (4, 2, 2.25)])
def test_a_critic_turn_makes_no_images_that_it_reuses(
    params: Params, steps: int, critic_turns: int, forward: float
) -> None:
    """One critic turn of each block passes through the critic alone; the others make images in 2.5 of 4 steps."""
    method = {"regression_weight": 0.0, "steps": steps, "critic_turns": critic_turns, "reuse_images": True}
    generator, critic = turn_costs(with_values(params, method=method))[-2:]
    assert (generator.turn.network, critic.turn.network) == ("generator", "critic")
    assert forward_passes(critic.passes) == forward and backward_passes(critic.passes) == 1


def test_the_penalty_of_a_discriminator_is_counted_by_its_own_loss(params: Params) -> None:
    """It makes an image; data, image and a neighbour of each pass through the trunk's encoder."""
    gan = {"trunks": ["teacher"], "trunk_r1_weight": 1.0, "trunk_r2_weight": 1.0, "penalty": "finite_difference"}
    cfg = params.method.gan.model_copy(update={**gan, "warmup_turns": 0})
    costs = turn_costs(with_values(params, method={"name": "gdd", "gan": cfg, "regression_weight": 0.0}))
    passes = {cost.turn.name: cost.passes for cost in costs}
    assert (passes["discriminator_penalty"].forward, passes["discriminator_penalty"].encoder_forward) == (1, 4)
    assert passes["discriminator_penalty"].backward == passes["discriminator_penalty"].encoder_backward == 0


def test_both_methods_of_a_sequence_are_counted(params: Params) -> None:
    moments = params.method.moments.model_copy(update={"networks": ["efficientnet_lite1"]})
    then = params.method.then.model_copy(update={"name": "fd_loss", "generator_turns": 7, "generator_batch_size": 10})
    costs = turn_costs(with_values(params, method={"moments": moments, "then": then}))
    assert [cost.phase.name for cost in costs] == ["warm_start", "catch_up", "distill", "distill", "fd_2"]
    assert costs[-1].images == 70
