"""Low-rank adapters (Hu et al. 2021) on a student: its weights stay the teacher's, and few beside them learn.

peft does it in place, so that the network keeps its class. It is imported where an adapter is asked for: that takes
seconds.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser
from dmd.diffusion.networks import unwrap
from dmd.distillation.sharding import spread
from dmd.storage.files import write_text

# What DMD2 adapts in SDXL: attention, its feed-forward, the convolutions and time embeddings of residual blocks. A
# UNet2DModel and a DiT call theirs by the same names.
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


def student(denoiser: Denoiser, rank: int, seed: int, alpha: int = 0) -> Denoiser:
    """What learns from a teacher: with rank 0 a copy all of whose weights are its own, else one with adapters."""
    return adapted(denoiser, rank, seed, alpha) if rank else denoiser.copy()


def adapted(denoiser: Denoiser, rank: int, seed: int, alpha: int = 0) -> Denoiser:
    """A copy that shares its frozen weights with the original, and begins as the same function (B is zero).

    What the adapters add is scaled by alpha / rank; alpha 0 stands for the rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    new = copy.deepcopy(denoiser, {id(p): p for p in denoiser.parameters()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=list(TARGETS))
        inject_adapter_in_model(config, unwrap(new.net))
    return new


def average_of(denoiser: Denoiser) -> Denoiser:
    """A frozen copy for a moving average; what does not learn is shared, not copied."""
    shared = {id(p): p for p in denoiser.parameters() if not p.requires_grad}
    return copy.deepcopy(denoiser, shared).requires_grad_(False)


def merged(net: Any) -> Any:
    """A copy of a network of diffusers with the adapters added to its weights; without adapters the network itself."""
    if not has_adapters(net):
        return net
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(net)  # the original's weights are the teacher's
    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            plain.set_submodule(name, module.get_base_layer())
    del plain.peft_config
    return plain


def has_adapters(net: nn.Module) -> bool:
    """Whether `adapted` made it."""
    return hasattr(net, "peft_config")


def save_adapter(net: Any, pipeline: Any, folder: Path) -> None:
    """The adapter alone: as `load_lora_weights` of a pipeline reads it, else in peft's own format."""
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(net)
    config = {**net.peft_config["default"].to_dict(), "target_modules": sorted(TARGETS)}  # a set has no order
    if hasattr(pipeline, "save_lora_weights"):  # without the config alpha would be taken for the rank
        pipeline.save_lora_weights(folder, unet_lora_layers=weights, unet_lora_adapter_metadata=config)
        return
    folder.mkdir()
    save_file(
        {name: weight.contiguous().cpu() for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    write_text(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True, default=str) + "\n")


def learnt(net: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """The part of net's state that changes in training, by what is frozen in a network like it."""
    frozen = {name for name, p in like.named_parameters() if not p.requires_grad}
    return {name: value for name, value in net.state_dict().items() if name not in frozen}


def restore(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what `learnt` gave, here or in a run of another number of processes."""
    own = net.state_dict()
    net.load_state_dict(own | {name: spread(value, own[name]) for name, value in state.items()})
