"""FD-loss (2026): the Fréchet distance on frozen features, by running moments, as the generator's loss."""

from typing import cast

from torch import Tensor, nn

from dmd.distillation.methods.feature_matching import FeatureMatching, list_estimators
from dmd.distillation.moments.frechet import RunningMoments, Sums, damped
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Draw, Values


class FDLoss(FeatureMatching):
    """A generator that learns from FD / (stopgrad(FD) + 0.01), summed over networks."""

    measure = "fd"

    def new_estimator(self, width: int) -> RunningMoments:
        """Make buffers for the moments of training images and of generated ones."""
        return RunningMoments(width)

    def distance_to_data(self, estimator: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the damped distance and the distance, both by the running moments mixed with those of this batch."""
        distance = cast(RunningMoments, estimator).distance(features, self.cfg.moments.decay)
        return damped(distance), distance

    def start(self, estimators: list[nn.Module], nets: Networks, draw: Draw) -> None:
        """Set the moments of training images, and start the running ones from moments.images generated images."""
        like = nets.like
        real, generated = ([Sums() for _ in estimators] for _ in range(2))
        for sums, chunks in (
            (real, self.features_of_data(like)),
            (generated, self.features_of_generator(nets, draw, self.cfg.moments.images)),
        ):
            for features in chunks:
                for total, f in zip(sums, features, strict=True):
                    total.add(f)
        for estimator, r, g in zip(estimators, real, generated, strict=True):
            cast(RunningMoments, estimator).start(r, g)

    def after(self, turn: str, nets: Networks, values: Values) -> None:
        """Move the running moments by the features of the batch."""
        for estimator, features in zip(list_estimators(nets), values.values(), strict=True):
            cast(RunningMoments, estimator).move(features, self.cfg.moments.decay)
