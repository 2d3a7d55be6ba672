"""The comparison of two candidates uses paired draws, and its tolerance is the noise of their differences."""

import pytest
import torch

from dmd.config import Params
from dmd.distillation.networks import TRAINED
from dmd.distillation.selection import Validation, is_as_good
from dmd.distillation.state import TrainState
from dmd.teachers.teacher import Teacher
from tests.helpers.training import copies, short_training

LOWEST = [1.0, 2.0, 3.0, 4.0]  # the draws differ far more than the generators
WORSE = [1.1, 2.3, 3.1, 4.3]  # by 0.2 on average; the standard error of the differences is 0.058


@pytest.mark.parametrize(("tolerance", "is_kept"), [(0.0, False), (1.0, False), (3.4, False), (3.5, True)])
def test_a_worse_candidate_is_kept_within_standard_errors_of_the_paired_differences(
    tolerance: float, is_kept: bool
) -> None:
    """The standard error of the scores themselves is 0.65, ten times that of the differences."""
    assert is_as_good(WORSE, LOWEST, tolerance) == is_kept


def test_a_better_candidate_is_kept_without_tolerance() -> None:
    assert is_as_good(LOWEST, WORSE, 0.0) and is_as_good(LOWEST, LOWEST, 0.0)


def test_candidates_that_are_each_a_little_worse_do_not_drift(teacher: Teacher, params: Params) -> None:
    """Every candidate is compared with the lowest scores of all, not with those of the last one that was kept."""
    state = TrainState(copies(teacher), short_training(params))
    for turn in range(8):
        signs = (1, -1, 1, -1) if turn % 2 else (-1, 1, -1, 1)
        state.turn = turn
        scores = [score + 0.1 * turn + 0.1 * sign for score, sign in zip(LOWEST, signs, strict=True)]
        state.keep_if_best(20000, scores, 1.0, whole=False)
    # The scores rise by 0.1 per turn. To the first candidate, the standard error is 0.115 for the second one.
    assert state.best.turn == 1 and state.best.scores == pytest.approx([0.9, 2.1, 2.9, 4.1])


def test_of_candidates_within_the_noise_the_latest_is_kept(teacher: Teacher, params: Params) -> None:
    state = TrainState(copies(teacher), short_training(params))
    for turn, scores in enumerate((WORSE, LOWEST, [1.2, 1.9, 3.1, 4.0], [2.0, 3.0, 4.0, 5.0]), start=1):
        state.turn = turn
        state.keep_if_best(20000, scores, 1.0, whole=False)
    assert (state.best.turn, state.best.scores) == (3, LOWEST)


def test_only_a_later_phase_that_goes_back_makes_a_run_keep_all_networks(teacher: Teacher, params: Params) -> None:
    state = TrainState(copies(teacher), short_training(params, ema_half_lives=[10, 20000]))
    state.turn = 1
    state.keep_if_best(10, LOWEST, 0.0, whole=False)
    assert state.best.networks.keys() == {"averages"} and state.best.networks["averages"].keys() == {10}
    state.keep_if_best(10, LOWEST, 0.0, whole=True)
    assert state.best.networks.keys() == {*TRAINED, "averages", "critic_average", "estimators"}
    kept = {k: v.clone() for k, v in state.best.weights.items()}
    with torch.no_grad():
        for p in state.averages[10].parameters():
            p.add_(1.0)
    assert all(torch.equal(v, kept[k]) for k, v in state.best.weights.items())  # a copy


def test_a_row_has_the_score_its_error_and_the_further_numbers() -> None:
    row = Validation([1.0, 2.0, 3.0, 6.0], {"validation_fd_classifier": 5.0}).row()
    assert row["validation_score"] == 3.0 and row["validation_error"] == pytest.approx(1.0801234)
    assert row["validation_fd_classifier"] == 5.0
