"""GPUs that `--dry-run --on` can plan for, and the share of their peak speed that such training reaches."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from dmd.config import Params
from dmd.errors import ConfigError
from flows.plan.throughput import PassTime
from flows.plan.units import rounded

COUNT = re.compile(r"x([1-9]\d{0,3})$")  # at the end of a target


@dataclass(frozen=True)
class Device:
    """A GPU by its data sheet."""

    peak: float  # TFLOP/s of dense matrix products in half precision with float32 sums
    memory: int  # GiB
    bandwidth: float  # TB/s between its memory and its cores
    link: float = 32.0  # GB/s each way to the other GPUs of its machine; by default that of 16 lanes of PCIe 4


# From NVIDIA's and AMD's data sheets, without sparsity. NVIDIA's sheets of the GeForce cards and of the L4 and L40S
# state the speed with sparsity, or with float16 sums: twice these numbers, or four times.
DEVICES = {
    "t4": Device(65, 16, 0.32),
    "v100": Device(125, 32, 0.9, link=150),
    "a10": Device(125, 24, 0.6),
    "l4": Device(121, 24, 0.3),
    "l40s": Device(362, 48, 0.86),
    "rtx3090": Device(71, 24, 0.94),
    "rtx4090": Device(165, 24, 1.01),
    "rtx5090": Device(210, 32, 1.79),
    "a100": Device(312, 80, 2.04, link=300),
    "a100-40": Device(312, 40, 1.56, link=300),
    "h100": Device(989, 80, 3.35, link=450),
    "h200": Device(989, 141, 4.8, link=450),
    "b200": Device(2250, 180, 8.0, link=900),
    "mi300x": Device(1307, 192, 5.3, link=448),
}


@dataclass(frozen=True)
class Published:
    """A training whose duration its authors published."""

    preset: str
    changes: Mapping[str, bool | int | str]  # to the preset, for the training that was published
    gpus: int
    hours: float
    source: str


# benchmarks/efficiency.py divides the operations of these trainings, counted on the presets' networks, by those that
# their GPUs, all A100, could have done in that time.
PUBLISHED = {
    "pixels": Published("imagenet64", {}, 7, 70 + 38, "DMD2 on ImageNet (Yin et al. 2024, appendix: two phases)"),
    "latents": Published("sd15", {"train.generator_turns": 4000}, 64, 25, "DMD2 on SD 1.5 (Yin et al. 2024, appendix)"),
    "sharded": Published(
        "sdxl",
        {"train.lora_rank": 0, "train.lora_rank_critic": 0, "train.lora_adapter": False, "train.shard": "full"},
        64,
        57,
        "DMD2 on SDXL with sharded weights and two images per GPU (Yin et al. 2024, appendix)",
    ),
}
EFFICIENCY = {"pixels": 0.235, "latents": 0.209, "sharded": 0.053}


@dataclass(frozen=True)
class Target:
    """Equal GPUs of one kind, such as h100x8."""

    name: str
    count: int

    @property
    def device(self) -> Device:
        """The data sheet of one of them."""
        return DEVICES[self.name]


def read_target(text: str) -> Target:
    """Read DEVICE or DEVICExCOUNT, such as h100x8. Raises ConfigError for an unknown device."""
    name = text.lower()
    if name in DEVICES:
        return Target(name, 1)
    match = COUNT.search(name)
    if match is None or name[: match.start()] not in DEVICES:
        raise ConfigError(f"--on {text}: write DEVICE or DEVICExCOUNT, such as h100x8; devices: {', '.join(DEVICES)}")
    return Target(name[: match.start()], int(match[1]))


def pass_time(operations: int, params: Params, target: Target, kind: str) -> PassTime:
    """Seconds of a pass on one GPU of the target.

    operations: floating point operations of a forward pass of one image. kind: a key of EFFICIENCY. No training in
    float32 has a published duration: the time is then the least that the device could take.
    """
    is_known = params.train.precision != "fp32"
    share = EFFICIENCY[kind] if is_known else 1.0
    speed = share * target.device.peak * 1e12
    size = f"{rounded(operations / 1e9)} GFLOP at {rounded(speed / 1e12)} TFLOP/s"
    if is_known:
        source = f"{size}, {share:.1%} of the peak as for {PUBLISHED[kind].source}"
    else:
        source = f"{size}, the peak in half precision, since the share of it in fp32 is not known"
    return PassTime(operations / speed, 2 * operations / speed, source, is_bound=not is_known)


def spread(params: Params, target: Target) -> Params:
    """The parameters with one process of `train` for each GPU. Raises ConfigError if they do not divide its batches."""
    cfg = params.train
    parts = target.count * cfg.accumulate
    for name in ("batch_size", "generator_batch_size"):
        if (size := getattr(cfg, name)) % parts:
            near = max(1, size // parts) * parts
            raise ConfigError(
                f"--on: train.{name} {size} is not a multiple of {target.count} GPUs x train.accumulate "
                f"{cfg.accumulate}; choose another number of GPUs, or --set train.{name}={near}"
            )
    launcher = "python" if target.count == 1 else ("accelerate" if cfg.launcher == "python" else cfg.launcher)
    return params.model_copy(update={"train": cfg.model_copy(update={"processes": target.count, "launcher": launcher})})
