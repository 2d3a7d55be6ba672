"""Converts the network of edm's ImageNet-64 checkpoint to a UNet2DModel that computes the same function.

Only DhariwalUNet, the network of ADM, can be converted. SongUNet adds labels before the layers of its time embedding
and has a 1x1 convolution beside each block that resizes; UNet2DModel has neither.
"""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from torch import Tensor

from dmd.edm.pickles import Inert
from dmd.errors import PickleError

CONVERTS = "DhariwalUNet"
HEAD = 64  # channels of an attention head, which edm's code fixes
GROUPS = 32
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # the range of edm's training and sampling; the network accepts any sigma


def diffusers_network(network: Inert) -> tuple[UNet2DModel, EDMEulerScheduler]:
    """The preconditioned network of a checkpoint, with a row of zeros as its null label after the known labels.

    Raises PickleError if the network has another class, or arguments that UNet2DModel does not support.
    """
    inner = (network.state.get("_modules") or {}).get("model")
    if not isinstance(inner, Inert) or network.class_name != "EDMPrecond" or inner.class_name != CONVERTS:
        kind = inner.class_name if isinstance(inner, Inert) else network.class_name
        raise PickleError(f"{kind} cannot be converted to a network of diffusers; {CONVERTS} in EDMPrecond can")
    shape = {**_defaults(), **inner.arguments()}
    weights = inner.tensors()
    net = UNet2DModel(**_config(shape, weights))
    try:
        net.load_state_dict({k: v.float() for k, v in _tensors(shape, weights)})
    except (KeyError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:200]
        raise PickleError(f"the tensors are not those of a {CONVERTS} with these arguments: {reason}") from None
    sigma_data = float(network.state.get("sigma_data", 0.5))
    return net.eval(), EDMEulerScheduler(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=sigma_data)


def _defaults() -> dict[str, Any]:
    """Default arguments of DhariwalUNet."""
    return {
        "label_dim": 0,
        "augment_dim": 0,
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "channel_mult_emb": 4,
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
    }


def _config(shape: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    channels = [shape["model_channels"] * m for m in shape["channel_mult"]]
    if min(channels) < 4 * GROUPS or any(c % HEAD for c in channels) or shape["channel_mult_emb"] != 4:
        raise PickleError(
            f"channels {channels} with a time embedding {shape['channel_mult_emb']} times as wide cannot be converted; "
            f"UNet2DModel needs multiples of {HEAD}, {4 * GROUPS} or more, and a time embedding 4 times as wide"
        )
    attends = [size in shape["attn_resolutions"] for size in _sizes(shape)]
    return {
        "sample_size": shape["img_resolution"],
        "in_channels": shape["in_channels"],
        "out_channels": shape["out_channels"],
        "block_out_channels": channels,
        "layers_per_block": shape["num_blocks"],
        "down_block_types": ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" for a in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": HEAD,
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "num_class_embeds": shape["label_dim"] + 1 if "map_label.weight" in weights else None,
    }


def _sizes(shape: dict[str, Any]) -> list[int]:
    """Side of the image at each level, in pixels."""
    return [shape["img_resolution"] >> level for level in range(len(shape["channel_mult"]))]


def _tensors(shape: dict[str, Any], weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor under its name in a UNet2DModel, without those of the augmentation."""
    sizes, last = _sizes(shape), len(shape["channel_mult"]) - 1
    alone = {"map_layer0": "time_embedding.linear_1", "map_layer1": "time_embedding.linear_2"}
    alone |= {f"enc.{sizes[0]}x{sizes[0]}_conv": "conv_in", "out_norm": "conv_norm_out", "out_conv": "conv_out"}
    for old, new in alone.items():
        yield from ((f"{new}.{kind}", weights[f"{old}.{kind}"]) for kind in ("weight", "bias"))
    if "map_label.weight" in weights:
        labels = weights["map_label.weight"].T
        yield "class_embedding.weight", torch.cat([labels, torch.zeros_like(labels[:1])])
    for level, size in enumerate(sizes):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for side, block, count in (("enc", down, shape["num_blocks"]), ("dec", up, shape["num_blocks"] + 1)):
            for i in range(count):
                name = f"{side}.{size}x{size}_block{i}"
                yield from _block(weights, name, f"{block}.resnets.{i}", f"{block}.attentions.{i}")
        if level < last:  # edm names these blocks after the level that follows, diffusers after the level before
            yield from _block(weights, f"enc.{sizes[level + 1]}x{sizes[level + 1]}_down", f"{down}.downsamplers.0")
            yield from _block(weights, f"dec.{size}x{size}_up", f"up_blocks.{last - level - 1}.upsamplers.0")
    deepest = f"dec.{sizes[last]}x{sizes[last]}"
    yield from _block(weights, f"{deepest}_in0", "mid_block.resnets.0", "mid_block.attentions.0")
    yield from _block(weights, f"{deepest}_in1", "mid_block.resnets.1")


def _block(weights: dict[str, Tensor], old: str, new: str, attention: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a residual block, and of the attention that edm keeps in it."""
    names = {"norm0": "norm1", "conv0": "conv1", "affine": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
    if f"{old}.skip.weight" in weights:
        names["skip"] = "conv_shortcut"
    for theirs, ours in names.items():
        yield from ((f"{new}.{ours}.{kind}", weights[f"{old}.{theirs}.{kind}"]) for kind in ("weight", "bias"))
    if f"{old}.qkv.weight" not in weights:
        return
    yield from ((f"{attention}.group_norm.{kind}", weights[f"{old}.norm2.{kind}"]) for kind in ("weight", "bias"))
    for kind in ("weight", "bias"):
        flat = {name: weights[f"{old}.{name}.{kind}"] for name in ("qkv", "proj")}
        flat = {name: v.flatten(1) if v.ndim > 1 else v for name, v in flat.items()}  # convolutions of 1x1
        yield f"{attention}.to_out.0.{kind}", flat["proj"]
        for i, part in enumerate(("to_q", "to_k", "to_v")):  # edm's channels are [head, channel, q or k or v]
            yield f"{attention}.{part}.{kind}", flat["qkv"].unflatten(0, (-1, 3))[:, i].contiguous()
