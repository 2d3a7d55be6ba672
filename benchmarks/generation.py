"""`python -m benchmarks.generation`: images by the exported generator in each engine, and by the teacher's samplers.

Each is timed on one thread for one image and for the batch at which it makes the most images per second, in turns.
Engines whose packages are missing (extras `onnx` and `openvino`) or that cannot run the network are recorded with the
reason. It writes records/generation.json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.interleaved import time_in_turns
from dmd.config import load_params
from dmd.encoding.encoded import load_encoded
from dmd.engines.engine import EAGER, ENGINES, with_engine
from dmd.errors import EngineError
from dmd.generator.generator import load_generator
from dmd.samplers.sampler import Sampler
from dmd.storage.files import write_text
from dmd.teachers.teacher import load_teacher

BATCHES = (1, 4, 16, 64, 256)
TEACHERS = ("ddim_10", "ddim_50", "ddim_100")


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--generator", type=Path, default=Path("artifacts/generator"))
    parser.add_argument("--teacher", type=Path, default=Path("artifacts/teacher"))
    parser.add_argument("--encoded", type=Path, default=Path("artifacts/encoded"))
    parser.add_argument("--samplers", nargs="*", default=list(TEACHERS), help="samplers of the teacher")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7, help="calls of each kind; medians are reported")
    parser.add_argument("--out", type=Path, default=Path("records/generation.json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    samplers, reasons = load_samplers(args.generator, args.engines)
    scale, encoded = load_params(Path("params.yaml")).guidance.scale, load_encoded(args.encoded)
    teacher = load_teacher(args.teacher, "cpu", scale, encoded.captions, encoded.texts)
    samplers |= {name: teacher.sampler(name) for name in args.samplers}
    result = {"threads": args.threads, "repeats": args.repeats, **measure(samplers, args.repeats), "failed": reasons}
    write_text(args.out, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def load_samplers(folder: Path, engines: list[str]) -> tuple[dict[str, Sampler], dict[str, str]]:
    """The generator's sampler in each engine, and the reason of each engine that cannot run it."""
    samplers, reasons = {}, {}
    for engine in engines:
        try:
            samplers[engine] = with_engine(load_generator(folder), engine).sampler()
        except EngineError as e:
            reasons[engine] = str(e)
    return samplers, reasons


def measure(samplers: dict[str, Sampler], repeats: int) -> dict[str, Any]:
    """Seconds for one image, the best batch and its images per second, of each sampler; ratios are to the eager one."""
    calls = {f"{name} {n}": call(sampler, n) for name, sampler in samplers.items() for n in BATCHES}
    seconds = time_in_turns(calls, repeats, time.perf_counter)
    rates = {n: {b: b / statistics.median(seconds[f"{n} {b}"]) for b in BATCHES} for n in samplers}
    rows = {}
    for name, own in rates.items():
        best = max(own, key=lambda size: own[size])
        rows[name] = {
            "passes": samplers[name].nfe,
            "seconds_alone": round(1 / own[1], 6),
            "best_batch": best,
            "images_per_second": round(own[best], 1),
            "images_per_second_by_batch": {str(size): round(rate, 1) for size, rate in own.items()},
        }
    eager = rows.get(EAGER, next(iter(rows.values())))
    for row in rows.values():
        row["speed_alone"] = round(eager["seconds_alone"] / row["seconds_alone"], 3)
        row["speed"] = round(row["images_per_second"] / eager["images_per_second"], 3)
    return {"samplers": rows}


def call(sampler: Sampler, n: int) -> Callable[[], object]:
    """A call that makes n images, from noise to bytes."""
    return partial(sampler.draw, torch.zeros(n, dtype=torch.long), 0, n)


if __name__ == "__main__":
    main()
