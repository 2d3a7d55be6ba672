"""Passes of each turn, by hand and as a turn really makes them."""

import pytest
import torch

from dmd.config import GanConfig, Params
from dmd.diffusion.denoiser import Guided
from dmd.distillation.cost import turn_costs
from dmd.distillation.methods import METHODS
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from flows.plan.passes import ENCODER_SHARE, backward_passes, forward_passes, process_count
from tests.helpers.networks import unet_denoiser
from tests.helpers.params import with_values
from tests.helpers.sources import reals
from tests.helpers.training import draws


def test_images_seen_are_those_of_every_turn(params: Params) -> None:
    costs = turn_costs(params)
    seen = {n: sum(c.images for c in costs if c.turn.network == n) for n in ("generator", "critic")}
    assert seen == {"generator": 2000 * 128 + 150 * 192, "critic": (100 + 150 * 5) * 64}


@pytest.mark.parametrize(
    ("name", "weight", "r1", "scale", "features"),
    [("dmd", 0.0, 0.0, 1.0, "innermost"), ("dmd", 0.5, 0.0, 3.0, "innermost"), ("dmd2", 0.0, 0.0, 1.0, "innermost"),
     ("dmd2", 0.25, 1.0, 2.0, "innermost"), ("dmd2", 0.0, 1.0, 1.0, "image"), ("f_distill", 0.0, 1.0, 1.0, "innermost"),
     ("f_distill", 0.0, 0.0, 1.0, "image")],
)  # fmt: skip
def test_passes_are_those_that_a_turn_really_makes(
    params: Params, name: str, weight: float, r1: float, scale: float, features: str
) -> None:
    gan = GanConfig(**{**params.method.gan.model_dump(), "r1_weight": r1, "features": features})
    given = with_values(
        params, method={"name": name, "regression_weight": weight, "gan": gan}, guidance={"scale": scale}
    )
    noise = torch.randn(9, 1, 8, 8)
    method = METHODS[name](given.method, 1000, Pairs(noise, noise.tanh(), torch.arange(9)), reals())
    denoiser = unet_denoiser(0).requires_grad_(False)
    teacher = Teacher(denoiser, Guided(denoiser, scale, 10) if scale > 1 else denoiser, None, (1, 8, 8), 11)
    nets = method.networks(teacher, 0)
    begun: list[int] = []
    ended: list[int] = []  # passes for features alone do not come to their end
    for net in (nets.teacher.net, nets.generator.net, nets.critic.net):
        net.register_forward_pre_hook(lambda _module, inputs: begun.append(len(inputs[0])))
        net.register_forward_hook(lambda _module, inputs, _output: ended.append(len(inputs[0])))
    expected = iter(turn_costs(given))
    for phase in method.phases(given.train):
        for turn in [turn.network for turn in phase.turns]:
            begun.clear()
            ended.clear()
            rng = draws(turn=turn)
            phase.loss(turn, nets, rng.noise(1, 8, 8), rng.integers(0, 10), rng)
            assert (cost := next(expected)).turn.network == turn
            passes = sum(ended) + ENCODER_SHARE * (sum(begun) - sum(ended))
            assert passes / 6 == forward_passes(cost.passes), (phase.name, turn)
    assert next(expected, None) is None


@pytest.mark.parametrize(
    ("method", "r1", "features", "critic", "generator"),
    [
        # The generator's image and the critic's prediction; then teacher and critic at a noise level.
        ("dmd", 0.0, "innermost", (2, 1), (3, 1)),
        # The critic's encoder on generated and real images, with R1 on a noised real one, too.
        ("dmd2", 0.0, "innermost", (3, 2), (3.5, 1.5)),
        ("dmd2", 1.0, "innermost", (3.5, 2.5), (3.5, 1.5)),
        ("dmd2", 1.0, "image", (2, 1), (3, 1)),
        # The discriminator's weight of a sample takes another pass without gradient.
        ("f_distill", 1.0, "innermost", (3.5, 2.5), (4, 1.5)),
    ],
)
def test_passes_by_hand(
    params: Params, method: str, r1: float, features: str, critic: tuple[float, float], generator: tuple[float, float]
) -> None:
    gan = GanConfig(**{**params.method.gan.model_dump(), "r1_weight": r1, "features": features, "from_turn": 0})
    values = {"name": method, "regression_weight": 0.0, "gan": gan, "steps": 1, "critic_turns": 5}
    given = with_values(params, method=values, guidance={"scale": 1.0})
    *_, of_critic, of_generator = turn_costs(given)  # of the last phase
    assert (of_critic.turn.network, of_generator.turn.network) == ("critic", "generator")
    for cost, (forward, backward) in ((of_critic, critic), (of_generator, generator)):
        assert (forward_passes(cost.passes), backward_passes(cost.passes)) == (forward, backward)


@pytest.mark.parametrize(
    ("launcher", "count"),
    [("python -m", 1), ("accelerate launch -m", 1), ("accelerate launch --num_processes 8 -m", 8),
     ("accelerate launch --multi_gpu --num-processes=16 -m", 16)],
)  # fmt: skip
def test_processes_of_a_launcher(launcher: str, count: int) -> None:
    assert process_count(launcher) == count
