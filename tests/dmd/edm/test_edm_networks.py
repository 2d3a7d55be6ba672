"""edm's ImageNet-64 network, converted to diffusers, equals edm's architecture on the same tensors."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.diffusion.denoiser import as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.edm.conversion import save
from dmd.edm.networks import diffusers_network
from dmd.edm.pickles import Inert
from dmd.errors import PickleError
from dmd.families.pipelines import load_pipeline
from dmd.teachers.check import describe
from dmd.teachers.teacher import load_teacher
from tests.helpers.networks import CPU

SHAPE: dict[str, Any] = {
    "img_resolution": 8, "in_channels": 3, "out_channels": 3, "label_dim": 5, "augment_dim": 9, "model_channels": 128,
    "channel_mult": [1, 2], "num_blocks": 2, "attn_resolutions": [4],
}  # fmt: skip
EMB = 512


def block(w: dict[str, Tensor], name: str, c_in: int, c_out: int, attention: bool = False) -> None:
    """Random tensors of a residual block, with edm's names."""
    w |= {f"{name}.norm0.weight": torch.randn(c_in), f"{name}.norm0.bias": torch.randn(c_in)}
    w |= {f"{name}.norm1.weight": torch.randn(c_out), f"{name}.norm1.bias": torch.randn(c_out)}
    for conv, i, o in (("conv0", c_in, c_out), ("conv1", c_out, c_out)):
        w |= {f"{name}.{conv}.weight": torch.randn(o, i, 3, 3) / (9 * i) ** 0.5, f"{name}.{conv}.bias": torch.randn(o)}
    w |= {
        f"{name}.affine.weight": torch.randn(2 * c_out, EMB) / EMB**0.5,
        f"{name}.affine.bias": torch.randn(2 * c_out),
    }
    if c_in != c_out:
        w |= {
            f"{name}.skip.weight": torch.randn(c_out, c_in, 1, 1) / c_in**0.5,
            f"{name}.skip.bias": torch.randn(c_out),
        }
    if attention:
        w |= {f"{name}.norm2.weight": torch.randn(c_out), f"{name}.norm2.bias": torch.randn(c_out)}
        for part, o in (("qkv", 3 * c_out), ("proj", c_out)):
            w[f"{name}.{part}.weight"] = torch.randn(o, c_out, 1, 1) / c_out**0.5
            w[f"{name}.{part}.bias"] = torch.randn(o)


def weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    w = {"map_augment.weight": torch.randn(128, 9), "map_label.weight": torch.randn(EMB, 5)}
    for layer, i in (("map_layer0", 128), ("map_layer1", EMB)):
        w |= {f"{layer}.weight": torch.randn(EMB, i) / i**0.5, f"{layer}.bias": torch.randn(EMB)}
    w |= {"enc.8x8_conv.weight": torch.randn(128, 3, 3, 3) / 27**0.5, "enc.8x8_conv.bias": torch.randn(128)}
    for name, c_in, c_out, attention in (
        ("enc.8x8_block0", 128, 128, False), ("enc.8x8_block1", 128, 128, False), ("enc.4x4_down", 128, 128, False),
        ("enc.4x4_block0", 128, 256, True), ("enc.4x4_block1", 256, 256, True),
        ("dec.4x4_in0", 256, 256, True), ("dec.4x4_in1", 256, 256, False),
        ("dec.4x4_block0", 512, 256, True), ("dec.4x4_block1", 512, 256, True), ("dec.4x4_block2", 384, 256, True),
        ("dec.8x8_up", 256, 256, False), ("dec.8x8_block0", 384, 128, False), ("dec.8x8_block1", 256, 128, False),
        ("dec.8x8_block2", 256, 128, False),
    ):  # fmt: skip
        block(w, name, c_in, c_out, attention)
    w |= {"out_norm.weight": torch.randn(128), "out_norm.bias": torch.randn(128)}
    return w | {"out_conv.weight": torch.randn(3, 128, 3, 3) / (9 * 128) ** 0.5, "out_conv.bias": torch.randn(3)}


def norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, min(32, x.shape[1] // 4), w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def conv(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    weight = w[f"{name}.weight"]
    return F.conv2d(x, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)


def residual(w: dict[str, Tensor], name: str, x: Tensor, emb: Tensor) -> Tensor:
    def resize(v: Tensor) -> Tensor:
        if name.endswith("_down"):
            return F.avg_pool2d(v, 2)
        return v.repeat_interleave(2, 2).repeat_interleave(2, 3) if name.endswith("_up") else v

    h = conv(w, f"{name}.conv0", resize(F.silu(norm(w, f"{name}.norm0", x))))
    scale, shift = F.linear(emb, w[f"{name}.affine.weight"], w[f"{name}.affine.bias"])[:, :, None, None].chunk(2, dim=1)
    h = conv(w, f"{name}.conv1", F.silu(norm(w, f"{name}.norm1", h) * (scale + 1) + shift))
    x = (conv(w, f"{name}.skip", x) if f"{name}.skip.weight" in w else resize(x)) + h
    if f"{name}.qkv.weight" not in w:
        return x
    q, k, v = (
        conv(w, f"{name}.qkv", norm(w, f"{name}.norm2", x)).reshape(len(x) * x.shape[1] // 64, 64, 3, -1).unbind(2)
    )
    attention = torch.einsum("ncq,nck->nqk", q, k / 64**0.5).softmax(dim=2)
    return x + conv(w, f"{name}.proj", torch.einsum("nqk,nck->ncq", attention, v).reshape(x.shape))


def dhariwal(w: dict[str, Tensor], x: Tensor, noise: Tensor, one_hot: Tensor) -> Tensor:
    """ADM's forward pass as in edm: time embedding, encoder, and a decoder that reads the encoder's outputs."""
    wave = noise[:, None] * (1 / 10000) ** (torch.arange(64) / 64)
    emb = F.silu(F.linear(torch.cat([wave.cos(), wave.sin()], dim=1), w["map_layer0.weight"], w["map_layer0.bias"]))
    emb = F.silu(F.linear(emb, w["map_layer1.weight"], w["map_layer1.bias"]) + one_hot @ w["map_label.weight"].T)
    x = conv(w, "enc.8x8_conv", x)
    skips = [x]
    for name in ("8x8_block0", "8x8_block1", "4x4_down", "4x4_block0", "4x4_block1"):
        x = residual(w, f"enc.{name}", x, emb)
        skips.append(x)
    for name in ("4x4_in0", "4x4_in1", "4x4_block0", "4x4_block1", "4x4_block2", "8x8_up", "8x8_block0", "8x8_block1",
                 "8x8_block2"):  # fmt: skip
        if "block" in name:
            x = torch.cat([x, skips.pop()], dim=1)
        x = residual(w, f"dec.{name}", x, emb)
    return conv(w, "out_conv", F.silu(norm(w, "out_norm", x)))


def checkpoint(tensors: dict[str, Tensor], kind: str = "DhariwalUNet", **changes: Any) -> Inert:
    """A checkpoint in the form that `read_checkpoint` returns."""
    inner, outer = Inert(), Inert()
    inner.class_name, outer.class_name = kind, "EDMPrecond"  # type: ignore[misc]
    inner.state = {"_init_args": (), "_init_kwargs": SHAPE | changes, "_parameters": tensors}
    outer.state = {"_modules": {"model": inner}, "sigma_data": 0.5, "_parameters": {}}
    return outer


def test_the_converted_network_equals_edms(tmp_path: Path) -> None:
    """x0 with edm's preconditioning (Karras et al. 2022, table 1), with labels and with the null label."""
    w = weights()
    save_pipeline(*diffusers_network(checkpoint(w)), tmp_path / "edm")
    pipe: Any = load_pipeline(tmp_path / "edm")
    denoiser = as_denoiser(pipe.unet, pipe.scheduler)
    t, labels = torch.tensor([10, 500, 999]), torch.tensor([3, 0, 5])
    sigma = denoiser.process.sigma(t).float()[:, None, None, None]
    assert math.isclose(denoiser.process.sigma(torch.tensor([999])).item(), 80.0, rel_tol=1e-6)
    x = sigma * torch.randn(3, 3, 8, 8)
    one_hot = torch.eye(6)[labels][:, :5]  # the null label
    scale = (sigma**2 + 0.25).sqrt()
    out = dhariwal(w, x / scale, sigma.flatten().log() / 4, one_hot)
    want = 0.25 / scale**2 * x + sigma * 0.5 / scale * out
    torch.testing.assert_close(denoiser(x, t, labels), want, rtol=1e-3, atol=1e-4)
    assert (denoiser(x, t, torch.zeros_like(labels)) - want).abs().max() > 0.01, "the output depends on the label"


def test_the_folder_is_a_teacher(tmp_path: Path) -> None:
    message = save(checkpoint(weights()), tmp_path / "edm")
    assert message.endswith(f"teacher.folder: {tmp_path / 'edm'}")
    teacher = load_teacher(tmp_path / "edm", CPU)
    assert describe(teacher).endswith("schedule of 1000 steps, 6 labels with the null one, images 3x8x8")
    images = teacher.sampler("heun_3").images(torch.tensor([0, 4]), torch.Generator().manual_seed(0))
    assert images.shape == (2, 3, 8, 8) and images.float().std() > 0


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("SongUNet", {}, "SongUNet cannot be converted to a network of diffusers"),
        ("DhariwalUNet", {"model_channels": 32}, "channels \\[32, 64\\]"),
        ("DhariwalUNet", {"num_blocks": 3}, "not those of a DhariwalUNet"),
    ],
)
def test_a_network_that_cannot_be_converted_is_an_error_of_one_line(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PickleError, match=message):
        diffusers_network(checkpoint(weights(), kind, **changes))
