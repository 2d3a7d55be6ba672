"""`python -m benchmarks.efficiency`: share of the peak speed of their GPUs that published trainings reached.

Operations are counted on the networks of the presets, so the program needs no GPU; it writes records/efficiency.json.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch

from dmd.config import Params, load_params
from dmd.distillation.cost import turn_costs
from dmd.storage.files import write_text
from flows.pipeline.changes import Changes, change_file
from flows.pipeline.presets import make_variants
from flows.plan.devices import DEVICES, PUBLISHED, Published
from flows.plan.estimate import stage_seconds
from flows.plan.network_config import Configs, blank_teacher, teacher_configs
from flows.plan.throughput import PassTime, count_operations

PUBLISHED_ON = "a100"  # GPU of all published trainings


def main() -> None:
    """Print and write the share of each kind of network."""
    argparse.ArgumentParser(prog="python -m benchmarks.efficiency", description=__doc__).parse_args()
    root = Path.cwd()
    shares = {kind: round(efficiency(root, training), 3) for kind, training in PUBLISHED.items()}
    for kind, share in shares.items():
        print(f"{kind:8} {share:.3f} of an {PUBLISHED_ON.upper()}'s peak: {PUBLISHED[kind].source}")
    write_text(root / "records" / "efficiency.json", json.dumps(shares, indent=1) + "\n")


def efficiency(root: Path, training: Published) -> float:
    """Operations of a published training over those that its GPUs could have done in its time."""
    params, configs = read_preset(root, training.preset, training.changes)
    operations = count_training(params, count_operations(blank_teacher(params, configs, torch.device("meta"))))
    return operations / (training.gpus * training.hours * 3600 * DEVICES[PUBLISHED_ON].peak * 1e12)


def read_preset(root: Path, preset: str, changes: Changes) -> tuple[Params, Configs | None]:
    """The parameters of a preset with changes, and the configurations of its teacher; None if it is trained here."""
    (variant,) = make_variants(root, preset, changes, [])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "params.yaml"
        file.write_bytes((root / "params.yaml").read_bytes())
        change_file(variant.fill(root), file)
        params = load_params(file)
    return params, teacher_configs(params, root, preset, variant.missing)


def count_training(params: Params, per_pass: int) -> float:
    """Operations of stage `train`, if a pass of an image takes `per_pass`."""
    operations = PassTime(per_pass, 2 * per_pass, "operations in place of seconds")
    return stage_seconds(params, turn_costs(params), operations)["train"] * params.train.processes


if __name__ == "__main__":
    main()
