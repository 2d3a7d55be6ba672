"""`python -m benchmarks.scaling`: time, memory and cost of training on 1 to 1,024 GPUs, and a check on two processes.

The plan is that of flows/plan/scaling.py for every preset. The check runs blocks of DMD2 in two processes of one
thread, which share each batch or are independent of each other, in turns; it writes their ratio beside the one that the
model gives for the measured speed of messages. Everything goes to records/scaling.json.

    python -m benchmarks.scaling --presets sdxl --device h100 --repeats 7 --out records/scaling.json
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from benchmarks.block import SIZES, Size, new_block
from benchmarks.efficiency import PUBLISHED_ON, read_preset
from benchmarks.workers import ROOT, Worker
from dmd.distillation.cost import turn_costs
from dmd.distillation.networks import TRAINED
from dmd.distillation.parallel.sharding import blocks_of
from dmd.storage.files import write_text
from flows.pipeline.changes import Changes
from flows.plan.devices import DEVICES, PUBLISHED, Target
from flows.plan.memory import FLOAT
from flows.plan.network_config import blank_teacher
from flows.plan.scaling import Links, Scaling
from tests.helpers.servers import free_port

COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # GPUs
META = torch.device("meta")
SMALL, LARGE = 2**10, 2**24  # bytes of a message whose time is its latency, and of one whose time is its size
TIMES = 9  # messages of each size


def main() -> None:
    """Plan, check, print and write the file."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    presets = sorted(file.stem for file in (ROOT / "experiments" / "presets").glob("*.yaml"))
    parser.add_argument("--presets", nargs="+", choices=presets, default=presets)
    parser.add_argument("--device", choices=DEVICES, default=PUBLISHED_ON)
    parser.add_argument("--size", choices=SIZES, default="digits", help="networks of the check")
    parser.add_argument("--batch", type=int, default=256, help="images of each process in the check")
    parser.add_argument("--repeats", type=int, default=7, help="blocks of each kind in the check; 0: no check")
    parser.add_argument("--out", type=Path, default=ROOT / "records" / "scaling.json")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "device": args.device,
        "presets": {name: plan(ROOT, name, args.device) for name in args.presets},
        "published": {kind: published(ROOT, kind) for kind in PUBLISHED if PUBLISHED[kind].preset in args.presets},
    }
    if args.repeats:
        result["measured"] = measure(replace(SIZES[args.size], batch_size=args.batch), args.repeats)
    write_text(args.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def plan(root: Path, preset: str, device: str) -> dict[str, Any]:
    """The rows of a preset, and the batches that bound the number of GPUs."""
    scaling = _scaling(root, preset, {}, device)
    rows = {row.gpus: asdict(row) for row in scaling.rows(COUNTS) if row is not None}
    return {"batches": scaling.batches, "is_bound": scaling.each.is_bound, "rows": list(rows.values())}


def published(root: Path, kind: str) -> dict[str, Any]:
    """Hours of a published training by the model, with messages and optimizer, over the hours that it took."""
    training = PUBLISHED[kind]
    scaling = _scaling(root, training.preset, training.changes, PUBLISHED_ON)
    cfg = scaling.params.train.model_copy(update={"processes": training.gpus, "accumulate": 1})
    return {"source": training.source, "model_over_published": round(scaling.hours(cfg) / training.hours, 3)}


def _scaling(root: Path, preset: str, changes: Changes, device: str) -> Scaling:
    params, configs = read_preset(root, preset, changes)
    return Scaling(blank_teacher(params, configs, META), params, turn_costs(params), Target(device, 1))


def measure(size: Size, repeats: int) -> dict[str, Any]:
    """Blocks of two processes that share a batch of twice the size's, and of two independent ones, in turns."""
    port = free_port()
    joined = [Worker(ROOT, replace(size, batch_size=2 * size.batch_size), env=_environment(r, port)) for r in (0, 1)]
    apart = [Worker(ROOT, size) for _ in range(2)]
    seconds: dict[str, list[float]] = {"joined": [], "apart": []}
    try:
        for _ in range(repeats + 1):  # the first block warms up
            for name, pair in (("joined", joined), ("apart", apart)):
                seconds[name].append(_run_together(pair))
    finally:
        for worker in (*joined, *apart):
            worker.close()
    together, alone = (statistics.median(seconds[name][1:]) for name in ("joined", "apart"))
    links, messages = measure_links(), 0.0
    for gradients, blocks, turns in _gradients(size):
        messages += turns * 2 * links.seconds(gradients, 2, blocks)
    return {
        "size": asdict(size),
        "cores": len(os.sched_getaffinity(0)),
        "repeats": repeats,
        "seconds_of_a_block": {"joined": round(together, 4), "apart": round(alone, 4)},
        "throughput": round(alone / together, 3),
        "throughput_by_the_model": round(alone / (alone + messages), 3),
        "megabytes_per_second": round(links.bandwidth / 1e6, 1),
        "microseconds_per_message": round(1e6 * links.latency, 1),
    }


def _run_together(pair: Sequence[Worker]) -> float:
    """Seconds until the blocks of all workers, started at once, have ended."""
    start = time.perf_counter()
    for worker in pair:
        worker.start_block()
    for worker in pair:
        worker.finish_block()
    return time.perf_counter() - start


def _gradients(size: Size) -> Iterable[tuple[int, int, int]]:
    """Bytes of the gradients, messages and number of turns in a block, for each network that trains."""
    state, _ = new_block(size, "dmd2", 1)
    for name in TRAINED:
        parameters = [p for p in state.nets.trained_in(name).parameters() if p.requires_grad]
        if parameters:
            blocks = 1 + len(list(blocks_of(state.nets.generator.net)))
            yield FLOAT * sum(p.numel() for p in parameters), blocks, size.critic_turns if name == "critic" else 1


def measure_links() -> Links:
    """The speed of sums over two processes of this machine by gloo, which does not overlap with passes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        mp.start_processes(_exchange, (free_port(), file), nprocs=2, start_method="spawn")
        latency, whole = json.loads(file.read_text())
    # A sum over two processes sends half of the bytes twice; `Links.seconds` is called once for each of the two ways.
    return Links(LARGE / max(whole - latency, 1e-9), 0.0, 2, latency / 2, overlap=False)


def _exchange(rank: int, port: int, file: Path) -> None:
    """Write the median seconds of a sum of few and of many bytes, as one of two processes."""
    os.environ |= _environment(rank, port)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seconds = [_median(lambda size=size: dist.all_reduce(torch.zeros(size // FLOAT))) for size in (SMALL, LARGE)]
    if rank == 0:
        file.write_text(json.dumps(seconds))
    dist.destroy_process_group()


def _median(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TIMES):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _environment(rank: int, port: int) -> dict[str, str]:
    """The variables by which one of two processes finds the other."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port, "ACCELERATE_USE_CPU": 1}
    return {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}


if __name__ == "__main__":
    main()
