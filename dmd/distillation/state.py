"""The state of a distillation: everything besides the teacher that a resumed run needs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.divergence.signs import CriticLevel
from dmd.distillation.lora import frozen_copy, load_trainable_state, trainable_state
from dmd.distillation.networks import TRAINED, Networks
from dmd.distillation.parallel.sharding import Placement, place_moments
from dmd.distillation.phases import Phase
from dmd.distillation.selection import is_as_good
from dmd.storage.events import Event
from dmd.training.ema import decay_from_half_life, update_ema, warm_decay


@dataclass
class Best:
    """The generator that validation selected so far, and the lowest scores of all candidates."""

    turn: int = 0  # generator turns before it was selected; 0: no generator yet
    half_life: int = 0  # of the selected average
    scores: list[float] = field(default_factory=list)  # of the candidate with the lowest mean, one for each draw
    networks: dict[str, Any] = field(default_factory=dict)  # copies, in the form of `TrainState.networks_state`

    @property
    def weights(self) -> dict[str, Tensor]:
        """The trainable weights of the selected average."""
        return self.networks["averages"][self.half_life]


class TrainState:
    """Networks, moving averages, optimizers and counters."""

    def __init__(self, nets: Networks, cfg: TrainConfig) -> None:
        self.step = 0  # steps done, over all phases
        self.turn = 0  # generator turns done, over all phases
        self.nets = nets
        # Moving averages of the generator by half-life in images; validation selects one.
        self.averages = {half_life: frozen_copy(nets.generator) for half_life in cfg.ema_half_lives}
        self.placement = Placement(cfg.shard)
        keeps_whole = self.placement.keeps_whole_networks
        self.gathered = None if keeps_whole else frozen_copy(nets.generator)
        averages = [] if keeps_whole else [average.net for average in self.averages.values()]
        self.placement.place([*nets.modules(), *averages])
        self.weight_decay, self.betas = cfg.weight_decay, cfg.betas
        self.best = Best()
        self.critic_level = CriticLevel()
        self.events: list[Event] = []  # times at which the run went wrong; each lowers the learning rates
        self.lr_factor = cfg.divergence.lr_factor
        device = nets.like.device.type
        fp16 = cfg.precision == "fp16"
        self.scalers = {turn: torch.amp.GradScaler(device, enabled=fp16) for turn in TRAINED}
        self.reset_optimizers()

    @property
    def lr_scale(self) -> float:
        """The factor on all learning rates: train.divergence.lr_factor for each event."""
        return self.lr_factor ** len(self.events)

    def enter(self, phase: Phase) -> None:
        """Start a phase with new optimizers; if it starts from the best generator, take back all networks of its turn.

        The critic must go back with the generator: the last critic predicts the scores of the last generator.
        """
        self.placement.drop_gathered(self.nets.modules())  # optimizers must get this process's share of every tensor
        self.reset_optimizers()
        if phase.starts_from_best and self.best.turn:
            self._load_networks(self.best.networks)

    def reset_optimizers(self) -> None:
        """Make new optimizers: moments of another loss would distort the first turns of a phase."""
        self.optimizers = {
            turn: torch.optim.AdamW(
                [p for p in self.nets.trained_in(turn).parameters() if p.requires_grad],
                betas=getattr(self.betas, turn),
                weight_decay=self.weight_decay,
                fused=True,
            )
            for turn in self.nets.trained
        }

    def update_averages(self, images: int) -> None:
        """Move every average towards the generator after a turn on `images` images."""
        self.placement.drop_gathered([self.nets.generator.net])  # a later turn may have gathered it
        for half_life, net in self.averages.items():
            update_ema(net, self.nets.generator, warm_decay(decay_from_half_life(half_life, images), self.turn))

    def keep_if_best(self, half_life: int, scores: Sequence[float], tolerance: float, whole: bool) -> None:
        """Keep an average if no candidate before it is better by more than the noise of the validation.

        scores: one for each draw. tolerance: in standard errors of the difference to the lowest scores so far, see
        `is_as_good`. whole: also keep the other networks, for a later phase that starts from the best generator.
        """
        best = self.best
        if not best.scores or is_as_good(scores, best.scores, tolerance):
            lowest = min(best.scores or scores, scores, key=fmean)
            networks = self.networks_state() if whole else {"averages": {half_life: self._average_state(half_life)}}
            self.best = Best(self.turn, half_life, list(lowest), _copy(networks))

    def average(self, half_life: int) -> Denoiser:
        """The average of a half-life, to sample with. With sharding, a gathered copy; the call is then collective."""
        if self.gathered is None:
            return self.averages[half_life]
        load_trainable_state(self.gathered, self._average_state(half_life))
        return self.gathered

    def networks_state(self) -> dict[str, Any]:
        """The trainable weights of all networks and averages; with sharding, this process's share."""
        # A pass without gradients leaves gathered weights that do not train in place of this process's share.
        self.placement.drop_gathered(self.nets.modules())
        nets, average, estimators = self.nets, self.nets.critic_average, self.nets.estimators
        trained = {name: nets.trained_in(name) for name in TRAINED}
        return {
            **{name: trainable_state(net, net) for name, net in trained.items()},
            "critic_average": {} if average is None else trainable_state(average, nets.critic),
            "estimators": {} if estimators is None else estimators.state_dict(),
            "averages": {half_life: self._average_state(half_life) for half_life in self.averages},
        }

    def _average_state(self, half_life: int) -> dict[str, Tensor]:
        return trainable_state(self.averages[half_life], self.nets.generator)

    def _load_networks(self, state: dict[str, Any]) -> None:
        for name in TRAINED:
            load_trainable_state(self.nets.trained_in(name), state[name])
        if self.nets.critic_average is not None:
            load_trainable_state(self.nets.critic_average, state["critic_average"])
        if self.nets.estimators is not None:
            self.nets.estimators.load_state_dict(state["estimators"])
        for half_life, net in self.averages.items():
            load_trainable_state(net, state["averages"][half_life])

    def state_dict(self) -> dict[str, Any]:
        """The state; with sharding, this process's share of it (`snapshot` gathers whole tensors)."""
        return {
            "step": self.step,
            "turn": self.turn,
            **self.networks_state(),
            "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
            "scalers": {turn: s.state_dict() for turn, s in self.scalers.items()},
            "best": vars(self.best),
            "critic_level": self.critic_level.state_dict(),
            "events": self.events,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a snapshot of what `state_dict` returned, in a run of any number of processes, sharded or not."""
        self.placement.drop_gathered(self.nets.modules())
        self.step, self.turn, self.events = state["step"], state["turn"], state["events"]
        self.critic_level.load_state_dict(state["critic_level"])
        self.best = Best(**state["best"])
        self._load_networks(state)
        for turn in self.optimizers:
            parameters = [p for group in self.optimizers[turn].param_groups for p in group["params"]]
            self.optimizers[turn].load_state_dict(place_moments(state["optimizers"][turn], parameters))
            self.scalers[turn].load_state_dict(state["scalers"][turn])


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    """Copies of all tensors in nested dicts, each where its original lies."""
    return {k: _copy(v) if isinstance(v, dict) else v.detach().clone() for k, v in state.items()}
