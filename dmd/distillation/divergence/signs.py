"""Signs that a training goes wrong: values that are not finite, equal images, and a critic whose loss explodes.

They are read with the losses of a row, so that no turn waits for the device on their account.
"""

import math
from typing import Any

import torch
from torch import Tensor

SPREAD = "spread"  # its name among the numbers of a turn; it is checked, not logged
CRITIC = "critic_total"  # the critic's loss: a column of the log
DECAY = 0.9  # of the moving average of the critic's loss, per row


@torch.no_grad()
def image_spread(x: Tensor) -> Tensor:
    """Mean and mean square of each pixel [2, C, H, W] over images x [B, C, H, W] of a part of a batch, for its spread.

    The means of several parts of one size are those of the whole batch. In float64, so that the square of a small
    spread is not lost in rounding.
    """
    x = x.detach().double()
    return torch.stack([x.mean(dim=0), x.square().mean(dim=0)])


def batch_spread(moments: Tensor, images: int) -> Tensor:
    """Standard deviation over the images of a batch, averaged over pixels; of a single image, that over its pixels.

    moments: the mean of `image_spread` over all parts. The scalar is zero if all images are equal or the only one is
    blank, and not finite if a value of an image is not.
    """
    mean, square = moments
    return (square - mean.square()).clamp(min=0).sqrt().mean() if images > 1 else mean.std(correction=0)


def check_spread(name: str, spread: float, smallest: float) -> None:
    """Raise FloatingPointError if images are not finite or all equal. name: the turn, for the message."""
    if not math.isfinite(spread):
        raise FloatingPointError(f"{name}: the generated images have NaN or infinite values")
    if spread < smallest:
        raise FloatingPointError(f"{name}: the generated images are all equal, with a spread of {spread:.1g}")


class CriticLevel:
    """The lowest moving average of the critic's loss in a phase, with which each row is compared.

    mean <- 0.9 mean + 0.1 loss after each row, and lowest is the smallest mean of the phase so far.
    """

    def __init__(self) -> None:
        self.phase, self.mean, self.lowest = "", 0.0, math.inf

    def check(self, row: dict[str, Any], factor: float) -> None:
        """Compare the critic's loss of a row, and move the average.

        Raises FloatingPointError if the loss exceeds `factor` times the lowest average of the phase.
        """
        loss = row.get(CRITIC)
        if loss is None or loss <= 0:  # a method without a critic, or a loss without a scale
            return
        if row["phase"] != self.phase:
            self.phase, self.mean, self.lowest = row["phase"], loss, math.inf
        if loss > factor * self.lowest:
            raise FloatingPointError(
                f"critic loss at generator turn {row['turn']}, step {row['step']} is {loss:.3g}: it explodes, as its "
                f"lowest level was {self.lowest:.3g}"
            )
        self.mean = DECAY * self.mean + (1 - DECAY) * loss
        self.lowest = min(self.lowest, self.mean)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        vars(self).update(state)
