"""Numbers of network passes that follow from params, in units of a pass through the whole network."""

from dmd.config import Params
from dmd.distillation.cost import Passes

ENCODER_SHARE = 0.5  # cost of a pass through the encoder alone, as a share of a whole pass


def forward_passes(passes: Passes) -> float:
    """Forward passes per image of a turn."""
    return passes.forward + ENCODER_SHARE * passes.encoder_forward


def backward_passes(passes: Passes) -> float:
    """Backward passes per image of a turn."""
    return passes.backward + ENCODER_SHARE * passes.encoder_backward


def passes_per_prediction(params: Params) -> int:
    """Network passes per prediction of the teacher: two with guidance, which also predicts without the condition."""
    return 1 if params.guidance.scale == 1 else 2
