"""Low-rank adapters (Hu et al. 2021) on a student; its other weights remain the teacher's.

peft injects them in place, so the network keeps its class. It is imported only when used, since that takes seconds.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser
from dmd.distillation.parallel.sharding import to_placement_of
from dmd.errors import ConfigError
from dmd.networks.half import HALVED
from dmd.networks.wrapper import TransformerWrapper, unwrap

# The layers that DMD2 adapts in SDXL: attention and its feed-forward, convolutions and time embeddings of residual
# blocks. UNet2DModel and DiT use the same names.
TARGETS = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"),
)


def student(denoiser: Denoiser, rank: int, seed: int, alpha: int = 0) -> Denoiser:
    """A trainable copy of a teacher: a full copy if rank is 0, otherwise one with adapters."""
    return with_adapters(denoiser, rank, seed, alpha) if rank else denoiser.copy()


def with_adapters(denoiser: Denoiser, rank: int, seed: int, alpha: int = 0) -> Denoiser:
    """A copy that shares its frozen weights with the original and starts as the same function (B is zero).

    The adapters' output is scaled by alpha / rank; alpha 0 stands for the rank.
    """
    from peft import LoraConfig, inject_adapter_in_model

    new = copy.deepcopy(denoiser, {id(p): p for p in denoiser.parameters()})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        targets = [*TARGETS, *(new.net.lora_targets if isinstance(new.net, TransformerWrapper) else ())]
        config = LoraConfig(r=rank, lora_alpha=alpha or rank, target_modules=targets)
        with _shown_in_float32(new):
            inject_adapter_in_model(config, unwrap(new.net))
    return new


@contextmanager
def _shown_in_float32(net: nn.Module) -> Iterator[None]:
    """Put empty float32 tensors in the place of weights in bfloat16: peft gives an adapter the type of its weight."""
    halved = [
        module for module in net.modules() if isinstance(module, HALVED) and module.weight.dtype == torch.bfloat16
    ]
    weights = [module.weight for module in halved]
    for module, weight in zip(halved, weights, strict=True):
        empty = torch.empty((), device=weight.device).expand(weight.shape)  # one number, whatever the shape
        module.weight = nn.Parameter(empty, requires_grad=weight.requires_grad)
    try:
        yield
    finally:
        for module, weight in zip(halved, weights, strict=True):
            module.weight = weight


def quantize(denoiser: Denoiser, others: Iterable[Denoiser]) -> None:
    """Store the weights of linear layers of a frozen denoiser as int8 with a scale for each row, in place (torchao).

    others: denoisers that may hold the same weights, as those with adapters do; they get the new ones, so that all
    networks still hold one copy. Raises ConfigError without torchao, which is an optional package.
    """
    if find_spec("torchao") is None:
        raise ConfigError(
            "train.frozen_precision: int8 needs torchao, which is not installed; run pip install '.[int8]', or use bf16"
        )
    from torchao.quantization import Int8WeightOnlyConfig, quantize_  # pyright: ignore[reportMissingImports]

    layers = [module for module in denoiser.modules() if isinstance(module, nn.Linear)]
    before = [(layer.weight, layer) for layer in layers]
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    quantize_(denoiser, config, lambda module, _name: isinstance(module, nn.Linear))
    new = {id(weight): layer.weight for weight, layer in before}
    for module in (module for other in others for module in other.modules()):
        if isinstance(module, nn.Linear) and id(module.weight) in new:
            module.weight = new[id(module.weight)]


def frozen_copy(denoiser: Denoiser) -> Denoiser:
    """A copy for a moving average. Weights that do not train are shared, not copied."""
    shared = {id(p): p for p in denoiser.parameters() if not p.requires_grad}
    return copy.deepcopy(denoiser, shared).requires_grad_(False)


def trainable_state(net: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """Entries of `net`'s state dict that are trainable in `like`."""
    frozen = {name for name, p in like.named_parameters() if not p.requires_grad}
    return {name: value for name, value in net.state_dict().items() if name not in frozen}


def load_trainable_state(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Load the entries that `trainable_state` returned, in a run of any number of processes."""
    own = net.state_dict()
    net.load_state_dict(own | {name: to_placement_of(own[name], value) for name, value in state.items()})
