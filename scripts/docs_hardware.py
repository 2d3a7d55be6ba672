"""The plans in the hardware table, with the memory and time that `flows.distill --dry-run` estimates for each."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dmd.yaml_files import load_yaml

ROOT = Path(__file__).resolve().parent.parent

GPU = "a100"  # of the published trainings that the hours on GPUs are derived from
ON_CPU = (
    "quick",
    "digits",
    "mnist",
    "fashion_mnist",
    "fashion_mnist_trunks",
    "fashion_mnist_text",
    "fashion_mnist_sana",
)
ONE = ("train.launcher=python", "train.processes=1")
# Name of each row of the hardware table -> the preset and the overrides of its plan.
PLANS: dict[str, tuple[str, ...]] = {
    **{name: ("--preset", name) for name in ON_CPU},
    "cifar10": ("--preset", "cifar10"),
    "cifar10 on one GPU": ("--preset", "cifar10", *ONE, "train.accumulate=16"),
    "imagenet64": ("--preset", "imagenet64"),
    "imagenet64 on one GPU": ("--preset", "imagenet64", *ONE, "train.accumulate=14"),
    "sd15": ("--preset", "sd15"),
    "sd15 on one GPU, adapters": (
        *("--preset", "sd15", *ONE),
        *("train.accumulate=2048", "train.lora_rank=64", "train.lora_rank_critic=64"),
    ),
    "sdxl": ("--preset", "sdxl"),
    "sdxl on one GPU": ("--preset", "sdxl", *ONE, "train.accumulate=128"),
    **{
        f"sdxl on {n} GPUs, sharded": (
            *("--preset", "sdxl", f"train.processes={n}"),
            *(f"train.accumulate={128 // n}", "train.shard=full"),
        )
        for n in (2, 4)
    },
    "sd35_medium": ("--preset", "sd35_medium"),
    "flux1_dev": ("--preset", "flux1_dev"),
    "flux1_dev on one GPU": ("--preset", "flux1_dev", *ONE, "train.accumulate=128"),
    **{name: ("--preset", name) for name in ("flux2_klein", "qwen_image", "sana_600m", "pixart_sigma", "z_image")},
}
MEMORY = re.compile(r"memory of train, per (?:GPU|CPU process): (?P<memory>[\d.]+ \w+)")
COST = re.compile(r"cost: (?P<cost>(?:at least )?[\d.,]+ \w+ hours)")
PARAMETERS = re.compile(r"(?P<parameters>[\d,]+) parameters")


def plan(words: Sequence[str]) -> str:
    """Run --dry-run and return its output."""
    argv = [sys.executable, "-m", "flows.distill", "--dry-run", *words[:2]]
    argv += [word for change in words[2:] for word in ("--set", change)]
    argv += [] if words[1] in ON_CPU else ["--on", f"{GPU}x{processes(words)}"]
    return subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def memory(words: Sequence[str]) -> str:
    """Memory per process of the train stage, as --dry-run estimates it."""
    match = MEMORY.search(plan(words))
    assert match is not None
    return match["memory"]


def processes(words: Sequence[str]) -> int:
    """Number of processes of the train stage, from the plan's own changes or from the preset."""
    changes = load_yaml(ROOT / "experiments" / "presets" / f"{words[1]}.yaml")["changes"]
    own = dict(word.split("=") for word in words[2:])
    return int({"train.processes": 1, **changes, **own}["train.processes"])


def hardware_table() -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table; CPU hours are core hours of the computer that runs this script."""
    table: list[list[str]] = []
    for name, words in PLANS.items():
        text = plan(words)
        matches = [pattern.search(text) for pattern in (PARAMETERS, MEMORY, COST)]
        table.append([name, str(processes(words)), *(match[1] if match else "" for match in matches)])
        print(" | ".join(table[-1]), file=sys.stderr, flush=True)
    return ["preset", "processes", "parameters of the teacher", "memory per process", "cost"], table
