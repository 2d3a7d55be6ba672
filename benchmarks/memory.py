"""Compares the memory that a plan counts with the bytes that a real training holds at its peak, on small networks.

    python -m benchmarks.memory                  # every family and option; writes records/memory.json

Each network is a scaled-down one of its family, with several blocks. The training runs on the CPU: two generator turns
of DMD with a critic turn before each. Every tensor that PyTorch's operations return counts until its
storage is freed; buffers within an operation do not. A plan leaves out what lives for a single operation, so the
networks are deep and their batches large enough for the rest to matter.
"""

import argparse
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dmd.config import Params, load_params
from dmd.distillation.cost import turn_costs
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.methods import METHODS
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.setup import new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.storage.files import write_text
from dmd.teachers.pairs import Pairs
from flows.plan.memory import train_memory
from flows.plan.network_config import blank_teacher

ROOT = Path(__file__).resolve().parent.parent
CPU, META = torch.device("cpu"), torch.device("meta")
BATCH = 4
WITHIN = 0.15  # largest difference that the tests allow between plan and measured peak, as a share of the peak
VAE = {
    "_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4, "sample_size": 32,
    "block_out_channels": [8, 8], "norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip
DC_VAE = {
    "_class_name": "AutoencoderDC", "in_channels": 3, "latent_channels": 4, "attention_head_dim": 4,
    "encoder_block_out_channels": [8, 8], "decoder_block_out_channels": [8, 8], "encoder_layers_per_block": [1, 1],
    "decoder_layers_per_block": [1, 1], "encoder_qkv_multiscales": [[], []], "decoder_qkv_multiscales": [[], []],
    "scaling_factor": 0.5, "upsample_block_type": "interpolate", "downsample_block_type": "Conv",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "UNet": {"unet": {
        "_class_name": "UNet2DModel", "sample_size": 16, "in_channels": 3, "out_channels": 3, "layers_per_block": 2,
        "block_out_channels": [32, 64, 64], "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"], "norm_num_groups": 8, "num_class_embeds": 11,
    }},
    "SD UNet": {"vae": VAE, "unet": {
        "_class_name": "UNet2DConditionModel", "sample_size": 16, "in_channels": 4, "out_channels": 4,
        "layers_per_block": 2, "block_out_channels": [32, 64], "cross_attention_dim": 32, "attention_head_dim": 8,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 8, "transformer_layers_per_block": 2,
    }},
    "DiT": {"vae": VAE, "transformer": {
        "_class_name": "DiTTransformer2DModel", "num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 4,
        "out_channels": 4, "num_layers": 8, "sample_size": 16, "patch_size": 2, "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 10,
    }},
    "SD3": {"vae": VAE, "transformer": {
        "_class_name": "SD3Transformer2DModel", "sample_size": 16, "patch_size": 2, "in_channels": 4,
        "out_channels": 4, "num_layers": 8, "attention_head_dim": 16, "num_attention_heads": 4,
        "joint_attention_dim": 64, "caption_projection_dim": 64, "pooled_projection_dim": 64,
        "pos_embed_max_size": 16, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm",
    }},
    "FLUX": {"vae": VAE, "transformer": {
        "_class_name": "FluxTransformer2DModel", "in_channels": 16, "num_layers": 3, "num_single_layers": 5,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 64, "pooled_projection_dim": 64,
        "axes_dims_rope": [4, 6, 6], "guidance_embeds": True,
    }},
    "Sana": {"vae": DC_VAE, "transformer": {
        "_class_name": "SanaTransformer2DModel", "in_channels": 4, "out_channels": 4, "num_attention_heads": 4,
        "attention_head_dim": 16, "num_layers": 8, "num_cross_attention_heads": 4, "cross_attention_head_dim": 16,
        "cross_attention_dim": 64, "caption_channels": 64, "sample_size": 16,
    }},
}  # fmt: skip
# For this option the plan is too low: it takes half of the bytes that autograd saves in float32, while norms and
# adapters keep theirs in float32.
HALF = "adapters, bf16"
RANKS = {"lora_rank": 8, "lora_rank_critic": 8}
OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "adapters": RANKS,
    "checkpointed": {"gradient_checkpointing": True},
    HALF: {**RANKS, "frozen_precision": "bf16", "precision": "bf16"},
}


class PeakBytes(TorchDispatchMode):
    """Bytes of the storages that are alive, of all tensors that operations take or return, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, out)):
            if isinstance(value, Tensor):
                self._note(value.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known or storage.device.type != "cpu":
            return
        self.known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, key, storage.nbytes()).atexit = False

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def params_of(options: dict[str, Any]) -> Params:
    """The parameters of DMD with one critic turn for each of two generator turns, and with these options of `train`."""
    params = load_params(ROOT / "params.yaml")
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    sizes = {"batch_size": BATCH, "generator_batch_size": BATCH, "generator_turns": 2, "warm_start": warm}
    method = params.method.model_copy(update={"name": "dmd", "critic_turns": 1, "regression_weight": 0.0})
    changes = {
        "train": params.train.model_copy(update={**sizes, **options}),
        "method": method,
        "pairs": params.pairs.model_copy(update={"count": 0}),
        "data": params.data.model_copy(update={"size": 32, "channels": 3}),
    }
    return params.model_copy(update=changes)


def measure(configs: dict[str, Any], params: Params) -> int:
    """Bytes at the peak of a training on the CPU."""
    gc.collect()
    with PeakBytes() as peak:
        teacher = blank_teacher(params, configs, CPU)
        nothing = torch.empty(0, *teacher.shape)
        none = Pairs(nothing, nothing, None)
        method = METHODS["dmd"](params.method, params.teacher.timesteps, none, TrainingImages(nothing, torch.arange(2)))
        nets = new_networks(method, teacher, params.train, "none", CPU)
        state = TrainState(nets, params.train)
        workers = Workers(Accelerator(cpu=True, mixed_precision={"fp32": "no"}.get(params.train.precision, "bf16")))
        labels = torch.arange(10) if teacher.conditions else None
        gc.collect()
        peak.peak = peak.live
        for _ in train(state, method, params.train, teacher.shape, labels, workers):
            half_life = params.train.ema_half_lives[0]
            state.keep_if_best(half_life, [1.0, 1.0], 1e9, whole=False)
    return peak.peak


def predict(configs: dict[str, Any], params: Params) -> dict[str, int]:
    """Bytes of each kind of content by the plan."""
    return train_memory(blank_teacher(params, configs, META), params, turn_costs(params))


def compare(family: str, option: str) -> dict[str, Any]:
    """The plan and the measured peak of a family with an option, and their ratio."""
    params = params_of(OPTIONS[option])
    planned, measured = predict(FAMILIES[family], params), measure(FAMILIES[family], params)
    total = sum(planned.values())
    return {"family": family, "option": option, "planned": total, "measured": measured, "ratio": total / measured}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("records/memory.json"))
    args = parser.parse_args()
    rows = [compare(family, option) for family in FAMILIES for option in OPTIONS]
    for row in rows:
        print(f"{row['family']:8} {row['option']:16} {row['planned']:12,} {row['measured']:12,} {row['ratio']:6.3f}")
    write_text(args.out, json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
