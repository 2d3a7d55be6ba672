"""The state of a distillation: everything besides the teacher that a resumed run needs."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dmd.config import TrainConfig
from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.lora import frozen_copy, load_trainable_state, trainable_state
from dmd.distillation.networks import TRAINED, Networks
from dmd.distillation.parallel.sharding import gather, place_moments, placement
from dmd.distillation.phases import Phase
from dmd.training.ema import decay_from_half_life, update_ema, warm_decay


@dataclass
class Best:
    """The best generator so far: its averaged weights and its turn, with the lowest score of all generators."""

    score: float = float("inf")
    turn: int = 0
    half_life: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)


class TrainState:
    """Networks, moving averages, optimizers and counters."""

    def __init__(self, nets: Networks, cfg: TrainConfig) -> None:
        self.step = 0  # steps done, over all phases
        self.turn = 0  # generator turns done, over all phases
        self.nets = nets
        # Moving averages of the generator by half-life in images; validation selects one.
        self.averages = {half_life: frozen_copy(nets.generator) for half_life in cfg.ema_half_lives}
        self.placement = placement(cfg.shard)
        self.gathered = None if self.placement.keeps_whole_networks else frozen_copy(nets.generator)
        self.placement.place([*nets.modules(), *(average.net for average in self.averages.values())])
        self.weight_decay = cfg.weight_decay
        self.rows: list[dict[str, Any]] = []
        self.best = Best()
        device = next(nets.generator.parameters()).device.type
        fp16 = cfg.precision == "fp16"
        self.scalers = {turn: torch.amp.GradScaler(device, enabled=fp16) for turn in TRAINED}
        self.reset_optimizers()

    def enter(self, phase: Phase) -> None:
        """Start a phase with new optimizers, and with the best generator so far if the phase asks for it."""
        self.reset_optimizers()
        if phase.starts_from_best and self.best.weights:
            for net in (self.nets.generator, *self.averages.values()):
                load_trainable_state(net, self.best.weights)

    def reset_optimizers(self) -> None:
        """Make new optimizers: moments of another loss would distort the first turns of a phase."""
        self.optimizers = {
            turn: torch.optim.AdamW(
                [p for p in self.nets.trained_in(turn).parameters() if p.requires_grad],
                weight_decay=self.weight_decay,
                fused=True,
            )
            for turn in TRAINED
        }

    def update_averages(self, images: int) -> None:
        """Move every average towards the generator after a turn on `images` images."""
        for half_life, net in self.averages.items():
            update_ema(net, self.nets.generator, warm_decay(decay_from_half_life(half_life, images), self.turn))

    def keep_if_best(self, half_life: int, score: float, tolerance: float) -> None:
        """Keep an average if its score is the lowest so far, or higher by no more than the tolerance (a share).

        On a small validation split the score is mostly noise. The later of two generators is then more likely to be the
        better one, and the score only detects a collapse. With a tolerance of 0 only the lowest score counts.
        """
        lowest = min(score, self.best.score)
        if score <= lowest * (1 + tolerance):
            state = self._trainable_state(self.averages[half_life])
            weights = {k: v.detach().clone() for k, v in state.items()}
            self.best = Best(lowest, self.turn, half_life, weights)

    def average(self, half_life: int) -> Denoiser:
        """The average of a half-life, to sample with. With sharding, a gathered copy; the call is then collective."""
        if self.gathered is None:
            return self.averages[half_life]
        load_trainable_state(self.gathered, self._trainable_state(self.averages[half_life]))
        return self.gathered

    def _trainable_state(self, average: nn.Module) -> dict[str, Tensor]:
        return trainable_state(average, self.nets.generator)

    def state_dict(self) -> dict[str, Any]:
        """The state, with whole tensors. With sharding the call is collective."""
        critic = self.nets.trained_in("critic")
        return gather(
            {
                "step": self.step,
                "turn": self.turn,
                "generator": self._trainable_state(self.nets.generator),
                "critic": trainable_state(critic, critic),
                "averages": {half_life: self._trainable_state(net) for half_life, net in self.averages.items()},
                "optimizers": {turn: o.state_dict() for turn, o in self.optimizers.items()},
                "scalers": {turn: s.state_dict() for turn, s in self.scalers.items()},
                "rows": self.rows,
                "best": vars(self.best),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the state that `state_dict` returned, in a run of any number of processes."""
        self.step, self.turn, self.rows = state["step"], state["turn"], state["rows"]
        self.best = Best(**state["best"])
        load_trainable_state(self.nets.generator, state["generator"])
        load_trainable_state(self.nets.trained_in("critic"), state["critic"])
        for half_life, net in self.averages.items():
            load_trainable_state(net, state["averages"][half_life])
        for turn in TRAINED:
            parameters = [p for group in self.optimizers[turn].param_groups for p in group["params"]]
            self.optimizers[turn].load_state_dict(place_moments(state["optimizers"][turn], parameters))
            self.scalers[turn].load_state_dict(state["scalers"][turn])
