"""Methods whose generator brings the features of a whole batch close to those of training images (FD-loss, iRDM).

The features come from frozen networks that were trained on other data. No turn passes through teacher or critic. An
anchor may be added: the regression loss on the teacher's pairs.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from dmd.config import MethodConfig, TrainConfig
from dmd.diffusion.denoiser import Cond
from dmd.distillation.divergence.signs import SPREAD, image_spread
from dmd.distillation.gan.trunk_discriminator import label
from dmd.distillation.methods.base import Setting
from dmd.distillation.methods.dmd import DMD, Losses
from dmd.distillation.moments.features import Features
from dmd.distillation.monitors import image_statistics
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Draw, Phase, Turn, Values
from dmd.errors import FeatureNetworkError
from dmd.features.load import NetworkName
from dmd.features.own import OWN
from dmd.networks.half import input_type
from dmd.samplers.few_step import generate
from dmd.teachers.teacher import Teacher
from dmd.training.random_source import RandomSource

KEY = "method.moments.networks"
CHUNK = 256  # images that pass through the networks at once while the phase begins


class FeatureMatching(DMD):
    """A method without a critic, whose only phase after the warm start has generator turns with a `batch_loss`."""

    has_critic = False
    measure: str  # name of the distance, which phase and log columns have

    @abstractmethod
    def new_estimator(self, width: int) -> nn.Module:
        """Make the buffers for the statistics of one network with `width` features."""

    @abstractmethod
    def distance_to_data(self, estimator: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of one network on features [B, D], and the distance itself for the log; both are scalars."""

    @abstractmethod
    def start(self, estimators: list[nn.Module], nets: Networks, draw: Draw) -> None:
        """Set the statistics that the phase begins with. draw: draws noise and labels for generated images."""

    @classmethod
    def check_params(cls, cfg: MethodConfig) -> list[str]:
        """The networks must be known, and the generator must have one step: features are those of finished images."""
        names, problems = cfg.moments.networks, super().check_params(cfg)
        if not names:
            problems.append(f"{KEY}: {cfg.name} needs a network; list one, such as efficientnet_lite1")
        for name in names:
            try:
                if name != OWN:
                    NetworkName.parse(name)
            except FeatureNetworkError as e:
                problems.append(f"{KEY}: {e}, or {OWN}")
        if len(set(names)) < len(names):
            problems.append(f"{KEY}: a network is listed twice; list each once")
        if cfg.steps > 1:
            problems.append(f"method.steps: {cfg.name} trains a generator of one step; use 1")
        return problems

    @classmethod
    def check_setting(cls, cfg: MethodConfig, setting: Setting) -> list[str]:
        """The networks need images, both generated and real."""
        problems = super().check_setting(cfg, setting)
        if not setting.on_pixels:
            problems.append(f"method.name: {cfg.name} needs images, but this teacher works on latents; use dmd2")
        if not setting.has_images:
            problems.append(f"method.name: {cfg.name} needs images, but the data are prompts; use dmd")
        return problems

    @classmethod
    def frozen_networks(cls, cfg: MethodConfig) -> dict[str, str]:
        """The networks that make features."""
        return super().frozen_networks(cfg) | dict.fromkeys(cfg.moments.networks, KEY)

    @property
    def features(self) -> Features:
        """The function from images to the features that are compared."""
        nets = {name: self.frozen[name] for name in self.cfg.moments.networks}
        return Features(nets, self.cfg.moments.levels == "all")

    def extend(self, nets: Networks, teacher: Teacher, seed: int) -> Networks:
        """Add empty statistics for each network; `begin` sets them."""
        first = next(teacher.denoiser.parameters())
        with torch.no_grad():
            features = self.features(torch.zeros(1, *teacher.shape, device=first.device, dtype=input_type(first)))
        widths = [f.shape[1] for f in features.values()]
        estimators = nn.ModuleList(self.new_estimator(width) for width in widths).to(first.device)
        return replace(super().extend(nets, teacher, seed), estimators=estimators)

    def phases(self, cfg: TrainConfig) -> tuple[Phase, ...]:
        """Warm start of the generator on pairs, then generator turns on the distance."""
        matching = Phase(
            name=self.measure,
            steps=cfg.generator_turns,
            turns=(Turn("generator", 1, cfg.generator_batch_size, cfg.lr_generator),),
            loss=self.loss,
            lr_schedule=cfg.lr_schedule,
            reads_pairs=self.turns_with_pairs(),
            batch_loss=self,
            begin=self.begin,
            after=self.after,
        )
        return *self.warm_start(cfg), matching

    def part(self, name: str, nets: Networks, z: Tensor, cond: Cond, rng: RandomSource) -> tuple[Losses, Values]:
        """The anchor's loss and image statistics of a part of the batch, and the features of its images [n, D]."""
        x = self.generate(name, nets, z, cond, rng)
        total, numbers = x.new_zeros(()), image_statistics(x) | {SPREAD: image_spread(x)}
        if self.cfg.regression_weight > 0:
            anchor = self.regression(nets, rng)
            total, numbers = self.cfg.regression_weight * anchor, numbers | {"regression": anchor.detach()}
        return {"total": total} | numbers, self.features(x)

    def whole(self, nets: Networks, values: Values) -> Losses:
        """The loss of the whole batch: the sum over networks of their losses on the features of all images [B, D]."""
        losses, numbers = [], {}
        for (name, features), estimator in zip(values.items(), list_estimators(nets), strict=True):
            loss, distance = self.distance_to_data(estimator, features)
            losses.append(loss)
            numbers[f"{self.measure}_{label(name)}"] = distance.detach()
        return {"total": torch.stack(losses).sum()} | numbers

    def begin(self, nets: Networks, draw: Draw) -> None:
        """Compute the first statistics. Every process computes all of them, so they are equal everywhere."""
        with torch.no_grad():
            self.start(list_estimators(nets), nets, draw)

    def after(self, turn: str, nets: Networks, values: Values) -> None:
        """Leave the statistics as they are; a subclass may move them."""

    def features_of_data(self, like: Tensor) -> Iterator[list[Tensor]]:
        """Features of at most moments.images training images, in chunks, one tensor for each network."""
        count = self.images_of_data
        index = torch.arange(count) * len(self.data.x) // count
        for part in index.split(CHUNK):
            x = self.data.x[part.to(self.data.device)].to(like.device, like.dtype)
            yield list(self.features(x).values())

    @property
    def images_of_data(self) -> int:
        """The number of training images that features are compared to."""
        return min(len(self.data.x), self.cfg.moments.images)

    def features_of_generator(self, nets: Networks, draw: Draw, images: int) -> Iterator[list[Tensor]]:
        """Features of `images` generated images, in chunks, one tensor for each network."""
        for start in range(0, images, CHUNK):
            z, cond = draw(range(start, min(start + CHUNK, images)))
            x = generate(nets.generator, z, self.generator_times, cond, self.cfg.levels.between)
            yield list(self.features(x).values())


def list_estimators(nets: Networks) -> list[nn.Module]:
    """The statistics of each network, in the order of `Features`; empty for networks of another method."""
    return list(nets.estimators.children()) if nets.estimators is not None else []
