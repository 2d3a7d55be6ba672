"""EfficientNet-Lite0, -Lite1 and -Lite2 (Tan and Le 2019; Google 2020), trained on ImageNet."""

from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from dmd.features.frozen import FrozenNetwork, resolution_levels
from dmd.features.preparation import Preparation

# The normalisation that the networks were trained with: (x - 127) / 128 on bytes.
MEAN, STD = 127 / 255, 128 / 255
# Attributes of stem, head and blocks: a convolution and the batch norm that follows it.
NORMS = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
         ("_project_conv", "_bn2"))  # fmt: skip


def load_efficientnet(variant: int, file: Path) -> EfficientNet:
    """EfficientNet-Lite<variant> from a state dict, in eval mode, with its batch norms folded into convolutions."""
    net = EfficientNet.from_name(f"efficientnet-lite{variant}")
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    fold_norms(net.eval())  # with channels_last, it reduces the time on a CPU to two thirds
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold_norms(net: nn.Module) -> None:
    """Fold the batch norms of an EfficientNet in eval mode into the convolutions before them."""
    for module in net.modules():
        for conv, norm in NORMS:
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def efficientnet_trunk(variant: int, file: Path, side: int | None = None) -> FrozenNetwork:
    """EfficientNet-Lite<variant> with a level at each resolution: the last block before the next halving."""
    net = load_efficientnet(variant, file)
    prepare = Preparation(side or net.input_image_size, (MEAN,) * 3, (STD,) * 3)
    blocks = [(f"block{i}", block) for i, block in enumerate(net._blocks)]
    levels = resolution_levels(blocks, net.extract_features, torch.zeros(1, 3, prepare.side, prepare.side))
    return FrozenNetwork(net, f"efficientnet_lite{variant}", prepare, levels, net.extract_features)
