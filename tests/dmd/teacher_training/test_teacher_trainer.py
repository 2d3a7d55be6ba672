"""The training of a teacher resumes exactly and drops labels at the configured rate."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from dmd.config import Params
from dmd.teacher_training.trainer import TeacherState, train_teacher
from tests.helpers.networks import toy_denoiser


def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(params: Params) -> None:
    cfg = params.teacher.model_copy(update={"steps": 8, "batch_size": 16, "warmup_steps": 2})
    images = torch.rand(40, 1, 8, 8) * 2 - 1
    labels = torch.arange(40) % 10

    def state() -> TeacherState:
        return TeacherState(toy_denoiser(), cfg)

    whole, first, second = state(), state(), state()
    list(train_teacher(whole, cfg, images, labels, 10))
    list(islice(train_teacher(first, cfg, images, labels, 10), 3))
    second.load_state_dict(first.state_dict())
    list(train_teacher(second, cfg, images, labels, 10))
    assert all(
        torch.equal(a, b) for a, b in zip(*(run.ema.state_dict().values() for run in (whole, second)), strict=True)
    )


def test_labels_are_dropped_at_the_given_rate(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = params.teacher.model_copy(update={"steps": 30, "batch_size": 100, "label_dropout": 0.25})
    denoiser = toy_denoiser()
    conditions: list[Tensor] = []
    predict = denoiser.predict
    monkeypatch.setattr(denoiser, "predict", lambda x, t, cond: conditions.append(cond) or predict(x, t, cond))
    list(train_teacher(TeacherState(denoiser, cfg), cfg, torch.zeros(50, 1, 8, 8), torch.arange(50) % 10, 10))
    share = (torch.cat(conditions) == 10).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.03)
