"""Changes to a teacher folder: its configs, its weights, or a whole network."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderTiny, UNet2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.networks import lively

Change = Callable[[Path], object]
Tensors = dict[str, Tensor]
DROP = object()  # a value of `config` that removes the key
UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"


def config(file: str, **values: Any) -> Change:
    """Set keys of a JSON file, or remove them."""

    def change(folder: Path) -> None:
        content = json.loads((folder / file).read_text()) | values
        (folder / file).write_text(json.dumps({k: v for k, v in content.items() if v is not DROP}))

    return change


def weights(part: str, edit: Callable[[Tensors], object]) -> Change:
    """Edit the tensors of a part's only file in place; a dict that `edit` returns replaces them."""

    def change(folder: Path) -> None:
        file = next((folder / part).glob("*.safetensors"))
        tensors = load_file(file)
        edited = edit(tensors)
        save_file({k: v.contiguous() for k, v in (edited if isinstance(edited, dict) else tensors).items()}, file)

    return change


def network(part: str, make: Callable[[], Any]) -> Change:
    """Replace a network, and its class in model_index.json."""

    def change(folder: Path) -> None:
        net = make()
        shutil.rmtree(folder / part)
        net.save_pretrained(folder / part)
        config("model_index.json", **{part: [type(net).__module__.partition(".")[0], type(net).__name__]})(folder)

    return change


def pixel_unet(**more: Any) -> Callable[[], UNet2DModel]:
    """A UNet2DModel on 8x8 images, with other arguments."""
    return lambda: lively(
        UNet2DModel(
            sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
            norm_num_groups=4, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **more,
        )
    )  # fmt: skip


def tiny_vae() -> AutoencoderTiny:
    """A VAE without a posterior and without a scale, as TAESD is."""
    return AutoencoderTiny(
        in_channels=1, out_channels=1, latent_channels=4, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
