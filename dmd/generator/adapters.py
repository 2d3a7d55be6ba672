"""LoRA adapters in an export: merged into the weights, and saved by themselves."""

import copy
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from dmd.storage.files import write_text


def merge_adapters(net: Any) -> Any:
    """A copy of a diffusers network with its adapters added to the weights; `net` itself if it has none."""
    if not has_adapters(net):
        return net
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(net)  # `net` shares its weights, maybe in bfloat16 or int8, with the teacher
    _dequantize(plain)
    plain = plain.float()
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
    del plain.peft_config
    return plain


def _dequantize(net: nn.Module) -> None:
    """Store weights of int8 (torchao) as float32, in place."""
    for module in net.modules():
        if isinstance(module, nn.Linear) and type(module.weight).__module__.startswith("torchao."):
            module.weight = nn.Parameter(module.weight.dequantize().float(), requires_grad=False)


def has_adapters(net: nn.Module) -> bool:
    """Whether a network carries LoRA adapters."""
    return hasattr(net, "peft_config")


def save_adapter(net: Any, pipeline: Any, folder: Path) -> None:
    """Write the adapter alone, in the format of the pipeline's `load_lora_weights` or else in peft's own format."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(net)
    lora = net.peft_config["default"]
    config = {**lora.to_dict(), "target_modules": sorted(lora.target_modules)}  # a set has no order
    if hasattr(pipeline, "save_lora_weights"):  # without the config, diffusers would read alpha as the rank
        part = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
        pipeline.save_lora_weights(folder, **{f"{part}_lora_layers": weights, f"{part}_lora_adapter_metadata": config})
        return
    folder.mkdir()
    save_file(
        {name: weight.contiguous().cpu() for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")
