"""MMD on frozen features as the generator's loss: the sibling of FD-loss without running moments (iRDM, 2026)."""

from typing import cast

import torch
from torch import Tensor, nn

from dmd.distillation.methods.feature_matching import FeatureMatching
from dmd.distillation.moments.discrepancy import Landmarks, normalised
from dmd.distillation.networks import Networks
from dmd.distillation.phases import Draw


class MMDLoss(FeatureMatching):
    """A generator that learns from MMD^2 / (|stopgrad(MMD^2)| + 1e-7), summed over networks."""

    measure = "mmd"

    def new_estimator(self, width: int) -> Landmarks:
        """Make buffers for landmarks, of which there are at most as many as training images."""
        return Landmarks(max(1, min(self.cfg.moments.landmarks, self.images_of_data)), width)

    def distance_to_data(self, estimator: nn.Module, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised discrepancy and the discrepancy of this batch."""
        distance = cast(Landmarks, estimator).distance(features)
        return normalised(distance), distance

    def start(self, estimators: list[nn.Module], nets: Networks, draw: Draw) -> None:
        """Set landmarks and weights of each network from the features of training images."""
        chunks = list(self.features_of_data(nets.like))
        for i, estimator in enumerate(estimators):
            cast(Landmarks, estimator).start(torch.cat([features[i] for features in chunks]), seed=i)
