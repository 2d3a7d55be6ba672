"""Counts the network passes of each turn of a method, by running the turn once on small networks.

The estimates of time and memory use these counts. A new method needs no entry here: its own losses are counted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dmd.config import Params
from dmd.diffusion.denoiser import Denoiser, Guided, as_denoiser
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import Method, build_method, frozen_networks
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Phase, Turn
from dmd.features.frozen import FrozenNetwork, Level
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource

SIDE, CLASSES = 8, 2  # of the small networks
IMAGES = 2  # per counted turn


@dataclass(frozen=True)
class Passes:
    """Passes per image of the turn's batch through whole networks and through encoders alone, over all networks."""

    forward: float
    backward: float
    encoder_forward: float  # passes that stop at the activations that a discriminator reads
    encoder_backward: float
    kept: float  # whole passes whose activations are kept until the backward pass
    encoder_kept: float
    trunk_kept: float  # the same of frozen networks of images, all together
    heads_kept: float  # the same of all heads on frozen trunks


@dataclass(frozen=True)
class TurnCost:
    """Cost of all turns of one network in one phase."""

    phase: Phase
    turn: Turn
    passes: Passes

    @property
    def count(self) -> int:
        """Number of such turns in the phase."""
        return self.phase.count(self.turn)

    @property
    def images(self) -> int:
        """Images that the network trains on in this phase."""
        return self.count * self.turn.batch_size


def turn_costs(params: Params) -> list[TurnCost]:
    """The cost of every kind of turn, in the order of the phases."""
    method = small_method(params)
    nets = method.networks(_small_teacher(params), seed=0)
    return [
        TurnCost(phase, turn, _count_mean(method, nets, phase, turn, params.train.processes * params.train.accumulate))
        for phase in method.phases(params.train)
        for turn in phase.turns
    ]


def small_method(params: Params, frozen: Mapping[str, FrozenNetwork] | None = None, images: int = CLASSES) -> Method:
    """Build the method on a few images and pairs of noise: enough for its phases, networks and losses.

    frozen: networks of images by name; those that are missing get a stand-in. images: number of training images.
    """
    cfg = params.method.model_copy(update={"generator_timestep": "auto", "regression_loss": "l2"})
    frozen = {name: _small_trunk() for name in frozen_networks(cfg)} | dict(frozen or {})
    rng, labels = torch.Generator().manual_seed(0), torch.arange(images) % CLASSES
    x = torch.randn(images, 1, SIDE, SIDE, generator=rng)
    pairs, data = Pairs(x, x, labels), TrainingImages(x, labels)
    return build_method(cfg, params.teacher.timesteps, pairs, data, frozen=frozen)


def _small_trunk() -> FrozenNetwork:
    """A stand-in for a frozen network of images, whose passes are not counted: planning must load no weights."""
    net = nn.Conv2d(1, 4, 3)
    return FrozenNetwork(net, "small", lambda x: x.mean(dim=1, keepdim=True), [Level("small", net)])


def _small_teacher(params: Params) -> Teacher:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2DModel(
            sample_size=SIDE,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(4, 4),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=2,
            add_attention=False,
            num_class_embeds=CLASSES + 1,
        )
    scheduler = DDIMScheduler(params.teacher.timesteps, prediction_type="v_prediction")
    denoiser = as_denoiser(net, scheduler).eval().requires_grad_(False)
    scale = params.guidance.scale
    return Teacher(
        denoiser=denoiser,
        guided=denoiser if scale == 1 else Guided(denoiser, scale, null=CLASSES),
        pipeline=DDIMPipeline(net, scheduler),
        shape=(1, SIDE, SIDE),
        conditions=CLASSES + 1,
    )


def _count_mean(method: Method, nets: Networks, phase: Phase, turn: Turn, shares: int) -> Passes:
    """The passes of a turn, averaged over the critic's turns of a block, of which one may reuse the generator's images.

    The generator's turn comes first in a phase that reuses its images.
    """
    first = count_passes(method, nets, phase, turn, shares)
    blocks = [t.every for t in phase.turns if t.network == "generator"]
    if turn.network != "critic" or not method.cfg.reuse_images or not blocks:
        return first
    other, share = count_passes(method, nets, phase, turn, shares), 1 / blocks[0]
    a, b = asdict(first), asdict(other)  # the first count has used up the images
    return Passes(**{name: share * a[name] + (1 - share) * b[name] for name in a})


def count_passes(method: Method, nets: Networks, phase: Phase, turn: Turn, shares: int = 1) -> Passes:
    """The passes of a turn, averaged over the steps of the generator that it may draw. shares: parts of its batch."""
    steps = len(method.generator_times)
    total: Counter[str] = Counter()
    for step in range(steps):
        part = range(step * IMAGES, (step + 1) * IMAGES)  # one for each step, since images are reused part by part
        rng = _FixedStep(0, 0, turn.name, part, step)
        z = rng.noise(*method.noise_shape((1, SIDE, SIDE)))
        with nets.only_training(turn.network) as trained, _counting(nets, method.frozen) as counts:
            _loss(phase, turn, nets, shares, z, torch.zeros(IMAGES, dtype=torch.long), rng).backward()
        trained.zero_grad(set_to_none=True)
        total.update(counts)
    names = Passes.__dataclass_fields__
    return Passes(**{name: total[name] / (IMAGES * steps) for name in names})


def _loss(phase: Phase, turn: Turn, nets: Networks, shares: int, z: Tensor, cond: Tensor, rng: RandomSource) -> Tensor:
    """The loss of a turn. A loss on the whole batch takes a second pass if the batch is divided, as in training."""
    if phase.batch_loss is None or turn.network != "generator":
        return phase.loss(turn.name, nets, z, cond, rng)["total"]
    if shares > 1:
        with torch.no_grad():
            phase.batch_loss.part(turn.name, nets, z, cond, rng)
    own, values = phase.batch_loss.part(turn.name, nets, z, cond, rng)
    return own["total"] + phase.batch_loss.whole(nets, values)["total"]


class _FixedStep(RandomSource):
    """A random source that always draws the same generator step for the whole batch."""

    def __init__(self, seed: int, step: int, network: str, samples: range, common: int) -> None:
        super().__init__(seed, step, network, samples)
        self.common = common

    def common_integer(self, high: int) -> int:
        """Return the fixed step."""
        return self.common

    def fork(self, purpose: str, device: torch.device | str | None = None) -> "_FixedStep":
        """Return a source with the same fixed step."""
        source = _FixedStep(*self.turn, self.samples, self.common)
        source.purpose = purpose
        return source


@contextmanager
def _counting(nets: Networks, frozen: Mapping[str, FrozenNetwork]) -> Iterator[Counter[str]]:
    """Count the images that pass through the networks while the block runs, by hooks on their middle and their end."""
    counts: Counter[str] = Counter()
    handles = [handle for net in _distinct(nets) for handle in _hooks(net, counts)]
    handles += [net.register_forward_hook(_keeps(counts, "trunk_kept", 1 / len(frozen))) for net in frozen.values()]
    if nets.discriminator is not None:
        handles.append(nets.discriminator.register_forward_hook(_keeps(counts, "heads_kept", 1)))
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _distinct(nets: Networks) -> list[Any]:
    """The networks of teacher, generator, critic and its average, each once."""
    denoisers: tuple[Denoiser, ...] = (nets.teacher, nets.generator, nets.critic, nets.scorer)
    return list({id(d.net): d.net for d in denoisers}.values())


def _hooks(net: Any, counts: Counter[str]) -> list[Any]:
    """Count an image that reaches the middle as a pass of the encoder, and one that reaches the end as a whole pass."""

    def at_middle(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        _count(counts, "encoder_", output, +1)

    def at_end(module: nn.Module, _inputs: Any, output: Any) -> None:
        if module is not net:  # its encoder alone
            return
        _count(counts, "encoder_", output.sample, -1)
        _count(counts, "", output.sample, +1)

    return [net.mid_block.register_forward_hook(at_middle), net.register_forward_hook(at_end)]


def _keeps(counts: Counter[str], name: str, weight: float) -> Any:
    """A hook that counts the images of a pass, times a weight, if its activations are kept until a backward pass."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        tensors = tree_leaves(output)
        if any(tensor.requires_grad for tensor in tensors):
            counts[name] += weight * len(tensors[0])  # type: ignore[assignment]

    return hook


def _count(counts: Counter[str], prefix: str, output: Tensor, sign: int) -> None:
    images = sign * len(output)
    counts[f"{prefix}forward"] += images
    if output.requires_grad:
        counts[f"{prefix}kept"] += images
        # A hook runs once for each backward pass through this output.
        output.register_hook(lambda _grad: counts.update({f"{prefix}backward": images}))
