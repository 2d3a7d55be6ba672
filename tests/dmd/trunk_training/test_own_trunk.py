"""The run's own trunk is trained on one half of the train split, and its judges on the other."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dmd.config import ConfigError, Params, validate
from dmd.data.shards import to_unit
from dmd.data.splits import half, load_split
from dmd.features.own import load_own, save_own
from dmd.storage.checkpoint import Scratch
from dmd.training.optim import learning_rate
from dmd.trunk_training.train import rotate, train_own
from tests.helpers.networks import CPU


def test_halves_share_no_image_and_hold_all(data_folder: Path) -> None:
    split = load_split(data_folder, "train")
    (a, b), b_labels = (half(split, k).images for k in (0, 1)), half(split, 1).labels
    assert torch.equal(b.unit()[torch.tensor([0, 3])], to_unit(split.images[torch.tensor([1, 7])]))
    assert (
        half(split, 1).captions[2] == split.captions[5]
        and len(a) + len(b) == len(split.images)
        and abs(len(a) - len(b)) <= 1
    )
    assert torch.equal(a[torch.tensor([0, 3])], split.images[torch.tensor([0, 6])])
    assert torch.equal(b[torch.tensor([0, 3])], split.images[torch.tensor([1, 7])]) and b_labels[2] == split.labels[5]
    assert torch.equal(a[:2], split.images[:4][::2]) and a.shape == (len(a), *split.shape)


def test_rotation_by_right_angles() -> None:
    x = torch.randn(4, 1, 5, 5)
    rotated = rotate(x, torch.arange(4))
    assert torch.equal(rotated[0], x[0]) and torch.equal(rotated[2], x[2].flip(1, 2))
    assert torch.equal(rotate(rotated, (-torch.arange(4)) % 4), x)


def test_the_network_learns_and_loads_as_a_trunk_with_three_levels(
    params: Params, data_folder: Path, tmp_path: Path, scratch: Scratch
) -> None:
    cfg = params.trunk.model_copy(update={"source": "train", "steps": 60, "width": 8})
    net, accuracy = train_own(cfg, load_split(data_folder, "train"), CPU, scratch)
    assert accuracy > 0.5  # chance is 0.25
    again, _ = train_own(cfg, load_split(data_folder, "train"), CPU, scratch.part("again"))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert load_own(tmp_path, CPU) is None
    save_own(net, tmp_path)
    trunk = load_own(tmp_path, CPU)
    assert trunk is not None and trunk.architecture == "own"
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    levels = trunk(x)
    assert [tuple(f.shape) for f in levels] == [(2, 8, 8, 8), (2, 16, 4, 4), (2, 32, 2, 2)]
    levels[-1].sum().backward()
    assert x.grad is not None and x.grad.abs().max() > 0 and not any(p.requires_grad for p in trunk.parameters())


@pytest.mark.parametrize(
    ("trunk", "trunks", "images", "line"),
    [
        ("none", ["own"], "all", "method.gan.trunks: own needs a network; set trunk.source to train"),
        ("train", ["own"], "all", "evaluator.images: all lets a judge train on the images of the trunk"),
    ],
)
def test_an_own_trunk_needs_its_stage_and_judges_of_the_other_half(
    params: Params, trunk: str, trunks: list[str], images: str, line: str
) -> None:
    raw = params.model_dump(by_alias=True)
    raw["method"] |= {"name": "gdd"}
    raw["method"]["gan"]["trunks"], raw["trunk"]["source"], raw["evaluator"]["images"] = trunks, trunk, images
    with pytest.raises(ConfigError, match=line):
        validate(raw, "params.yaml")
    raw["trunk"]["source"], raw["evaluator"]["images"] = "train", "second_half"
    validate(raw, "params.yaml")


def test_a_trunk_that_is_ended_continues_to_the_same_bytes(
    params: Params, data_folder: Path, scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint holds network and optimizer."""
    monkeypatch.setattr("dmd.training.resumable.CHECKPOINT_EVERY", 4)
    cfg = params.trunk.model_copy(update={"source": "train", "steps": 9, "width": 8, "batch_size": 16})
    split = load_split(data_folder, "train")
    whole, _ = train_own(cfg, split, CPU, scratch.part("whole"))
    with monkeypatch.context() as patch:
        patch.setattr("dmd.trunk_training.train.learning_rate", _fail_after(6))
        with pytest.raises(KeyboardInterrupt):
            train_own(cfg, split, CPU, scratch)
    resumed, _ = train_own(cfg, split, CPU, scratch)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def _fail_after(steps: int) -> Callable[..., float]:
    def rate(base: float, step: int, *more: object) -> float:
        if step == steps:
            raise KeyboardInterrupt
        return learning_rate(base, step, *more)  # type: ignore[arg-type]

    return rate
