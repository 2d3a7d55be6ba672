"""DINOv2 and CLIP's image tower as frozen networks, from folders in the format of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from torch import Tensor, nn
from transformers import AutoModel, CLIPImageProcessor, CLIPVisionModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from dmd.features.frozen import FrozenNetwork, Level
from dmd.features.preparation import Preparation

LEVELS = 4  # layers at equal distances, the last included


class VisionConfig(Protocol):
    """The settings of an image tower that its input and its levels depend on."""

    image_size: int
    patch_size: int


def load_dinov2(folder: Path) -> Any:
    """A DINOv2 in eval mode."""
    return _load(AutoModel, folder)


def dinov2_trunk(folder: Path, side: int | None = None) -> FrozenNetwork:
    """DINOv2 with four levels of patch tokens; it takes sides that are multiples of its patches."""
    net = load_dinov2(folder)
    prepare = _preparation(net.config, Preparation(net.config.image_size), side)
    registers = getattr(net.config, "num_register_tokens", 0)
    levels = _levels(net.encoder.layer, 1 + registers)
    return FrozenNetwork(net, "dinov2", prepare, levels, lambda x: net(pixel_values=x))


def clip_trunk(folder: Path, side: int | None = None) -> FrozenNetwork:
    """The image tower of a CLIP with four levels of patch tokens; other sides interpolate its positions."""
    net = _load(CLIPVisionModel, folder)
    processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
    own = Preparation(net.config.image_size, tuple(processor.image_mean), tuple(processor.image_std))
    tower = getattr(net, "vision_model", net)

    def run(x: Tensor) -> Any:
        return net(pixel_values=x, interpolate_pos_encoding=True)

    return FrozenNetwork(net, "clip", _preparation(net.config, own, side), _levels(tower.encoder.layers, 1), run)


def _load(kind: Any, folder: Path) -> Any:
    disable_progress_bar()
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
    finally:
        enable_progress_bar()


def _preparation(config: VisionConfig, own: Preparation, side: int | None) -> Preparation:
    """The network's own input, or the same at another side. Raises ValueError if patches do not fit into it."""
    return Preparation(own.side, own.mean, own.std, multiple=config.patch_size).at(side or own.side)


def _levels(layers: Sequence[nn.Module], extra: int) -> list[Level]:
    """Levels at equal distances. extra: tokens before those of the patches, such as the class token."""
    count = min(LEVELS, len(layers))
    chosen = [len(layers) * (k + 1) // count - 1 for k in range(count)]
    return [Level(f"layer{i}", layers[i], lambda output: _to_grid(output, extra)) for i in chosen]


def _to_grid(output: Any, extra: int) -> Tensor:
    """Patch tokens [B, extra + side^2, C] as activations [B, C, side, side]."""
    tokens = cast(Tensor, output[0] if isinstance(output, tuple) else output)[:, extra:]
    side = int(tokens.shape[1] ** 0.5)
    return tokens.transpose(1, 2).unflatten(2, (side, side))
