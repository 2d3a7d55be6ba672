"""LPIPS on a VGG16 checkpoint in torchvision's format, with random weights, equals its formula."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from dmd.config import Params, WeightsSource
from dmd.distillation.methods import METHODS
from dmd.distillation.perceptual import Lpips
from dmd.errors import ConfigError
from dmd.teachers.pairs import Pairs
from tests.helpers.sources import reals

ENDS = (4, 9, 16, 23, 30)  # VGG16's five blocks, each after its last ReLU


def new_layers() -> nn.Sequential:
    """Torchvision's VGG16 without its classifier, whose 124 million weights LPIPS does not read."""
    return make_layers(cfgs["D"], batch_norm=False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    features = new_layers().state_dict()
    file = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({f"features.{name}": value for name, value in features.items()}, file)
    return file


@pytest.fixture(scope="module")
def lpips(checkpoint: Path) -> Lpips:
    return Lpips(WeightsSource(weights=str(checkpoint), sha256="any"))


def lpips_formula(lpips: Lpips, file: Path, x: Tensor, y: Tensor) -> Tensor:
    """LPIPS: sum over blocks of the mean over positions of sum_c w_c (a_c - b_c)^2, with unit vectors a and b."""
    weights = torch.load(file, weights_only=True)
    layers = new_layers()
    layers.load_state_dict({name.removeprefix("features."): value for name, value in weights.items()})
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    sides = []
    for images in (x, y):
        a = F.interpolate(images.expand(-1, 3, -1, -1), size=(224, 224), mode="bilinear", align_corners=False)
        a, units = (a - shift.reshape(1, 3, 1, 1)) / scale.reshape(1, 3, 1, 1), []
        for i, layer in enumerate(layers):
            a = layer(a)
            if i + 1 in ENDS:
                units.append(a / (a.square().sum(dim=1, keepdim=True).sqrt() + 1e-10))
        sides.append(units)
    heads = [getattr(lpips.net, f"lin{i}").model[1].weight for i in range(5)]
    parts = [(w * (a - b) ** 2).sum(dim=1).mean() for w, a, b in zip(heads, *sides, strict=True)]
    return torch.stack(parts).sum()


def test_lpips_equals_its_formula_and_gives_only_the_image_a_gradient(lpips: Lpips, checkpoint: Path) -> None:
    x, y = torch.rand(1, 1, 8, 8, requires_grad=True), torch.rand(1, 1, 8, 8)
    loss = lpips(x, y)
    torch.testing.assert_close(loss, lpips_formula(lpips, checkpoint, x, y), rtol=1e-4, atol=0)
    loss.backward()
    assert x.grad is not None and x.grad.abs().max() > 0 and not any(p.requires_grad for p in lpips.parameters())
    assert lpips(y, y).item() == 0


def test_lpips_is_the_regression_loss_of_the_method(params: Params, checkpoint: Path) -> None:
    source = WeightsSource(weights=str(checkpoint), sha256="any")
    cfg = params.method.model_copy(update={"regression_loss": "lpips", "lpips": source})
    none = Pairs(torch.empty(0, 1, 8, 8), torch.empty(0, 1, 8, 8), None)
    method = METHODS["dmd"](cfg, 1000, none, reals())
    assert isinstance(method.distance, Lpips)  # type: ignore[attr-defined]


def test_a_wrong_checkpoint_is_an_error_of_one_line(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"method.lpips.sha256: .*vgg16.pth has [0-9a-f]{64}; correct the hash"):
        Lpips(WeightsSource(weights=str(checkpoint), sha256="0" * 64))
    short = tmp_path / "short.pth"
    short.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"short.pth is not torchvision's checkpoint of VGG16"):
        Lpips(WeightsSource(weights=str(short), sha256="any"))
