"""Tables of speed, memory and scaling, from the JSON files that the programs in benchmarks/ write into records/."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GIB = 2**30
Row = Sequence[object]


def table(head: Row, rows: Iterable[Row]) -> str:
    """A table whose first column is text and whose other columns are figures."""
    lines = [[str(cell) for cell in line] for line in (head, ["---", *["--:"] * (len(head) - 1)], *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def record(program: str, make: Callable[[Any], str]) -> Callable[[], str]:
    """A function that makes a table from the record of a program, or says how to write the record."""

    def read() -> str:
        file = ROOT / "records" / f"{program}.json"
        if not file.exists():
            return f"Not recorded yet; `python -m benchmarks.{program}` writes the record.\n"
        return make(json.loads(file.read_text()))

    return read


def blocks(turns: Any) -> str:
    """Speed of a block over that of an earlier commit, and the difference of losses."""
    against = turns["against"]
    head = ["network", f"speed over {against['commit']}", "time with a frozen trunk", "largest difference of losses"]
    rows = [
        [name, f"{own['ratio']:.2f}", f"{own['frozen_over_earlier']:.2f}", f"{_worst(own):.0e}"]
        for name, own in against["sizes"].items()
    ]
    return table(head, rows)


def _worst(own: Any) -> float:
    return max(own["largest_difference_of_losses"].values())


def host(turns: Any) -> str:
    """The host's own time of a turn, by kind of training and batch."""
    rows = turns["host_ms_per_turn"]
    columns = list(next(iter(rows.values())))
    return table(["training", *columns], ([name, *(f"{row[c]:.1f}" for c in columns)] for name, row in rows.items()))


def passes(turns: Any) -> str:
    """Milliseconds of a block by kind of work, for each kind of training and network."""
    everything = [(size, name, own) for size, rows in turns["passes"].items() for name, own in rows.items()]
    kinds = list(dict.fromkeys(kind for _, _, own in everything for kind in own["ms"]))
    head = ["network, training", "all", "passes over dmd2", *kinds]
    rows = [
        [
            f"{size}, {name}",
            f"{own['ms_in_all']:.0f}",
            f"{own['passes_over_dmd2']:.2f}",
            *(f"{own['ms'][kind]:.1f}" if kind in own["ms"] else "" for kind in kinds),
        ]
        for size, name, own in everything
    ]
    return table(head, rows)


def roofline(result: Any) -> str:
    """The floor of a block's time."""
    rows = result["blocks"]
    columns = ["GFLOP", "GB that must move", "seconds at least", "seconds", "share of the floor"]
    return table(["network", *columns], ([name, *(own[c] for c in columns)] for name, own in rows.items()))


def sharing(result: Any) -> str:
    """Cost of a block with options that share passes."""
    options = list(next(iter(result.values())))
    return table(["network", *options], ([name, *(own[o] for o in options)] for name, own in result.items()))


def linear(result: Any) -> str:
    """Growth of a block's time with batch and operations."""
    head = ["network, grows", "factor", "exponent", "share that does not grow", "largest distance to a line"]
    keys = ("factor", "exponent", "fixed", "largest_distance_to_line")
    return table(head, ([f"{n}, {what}", *(own[what][k] for k in keys)] for n, own in result.items() for what in own))


def plans(result: Any) -> str:
    """Hours and cost of each preset by number of GPUs."""
    head = ["preset, GPUs", "layout", "parts", "GiB per GPU", "hours", "GPU hours", "share"]
    rows = [
        [
            f"{name}, {row['gpus']}",
            row["shard"],
            row["accumulate"],
            f"{row['memory'] / GIB:.1f}",
            f"{'at least ' if own['is_bound'] else ''}{row['hours']:,.2g}",
            f"{row['gpu_hours']:,.3g}",
            f"{row['share']:.2f}",
        ]
        for name, own in result["presets"].items()
        for row in {row["gpus"]: row for row in own["rows"]}.values()
    ]
    return table(head, rows)


def checks(result: Any) -> str:
    """The scaling model beside published trainings and two processes here."""
    rows: list[Row] = [
        [f"hours of {own['source']}, model over published", own["model_over_published"], ""]
        for own in result["published"].values()
    ]
    if measured := result.get("measured"):
        side, batch = measured["size"]["side"], measured["size"]["batch_size"]
        name = f"throughput of two processes over two independent ones, {side}x{side}, {batch} images each"
        rows.append([name, measured["throughput_by_the_model"], measured["throughput"]])
    return table(["check", "model", "measured"], rows)


def processes(result: Any) -> str:
    """Seconds of stages with one and two processes."""
    rows = {name: own for name, own in result.items() if isinstance(own, dict)}
    return table(
        ["stage", "one process, s", "two processes, s", "ratio"],
        ([name, own["seconds"]["1"], own["seconds"]["2"], own["ratio"]] for name, own in rows.items()),
    )


def memory(rows: Any) -> str:
    """Planned memory over the measured peak."""
    options = list(dict.fromkeys(row["option"] for row in rows))
    families = list(dict.fromkeys(row["family"] for row in rows))
    ratio = {(row["family"], row["option"]): row["ratio"] for row in rows}
    return table(["network", *options], ([f, *(f"{ratio[f, o]:.2f}" for o in options)] for f in families))


def generation(result: Any) -> str:
    """Speed of the generator in each engine, and of the teacher."""
    head = ["sampler", "passes", "ms for one image", "best batch", "images per second", "speed alone", "speed"]
    rows: list[Row] = [
        [
            name,
            own["passes"],
            f"{1000 * own['seconds_alone']:.2f}",
            own["best_batch"],
            f"{own['images_per_second']:,.1f}",
            f"{own['speed_alone']:.2f}",
            f"{own['speed']:.2f}",
        ]
        for name, own in result["samplers"].items()
    ]
    return table(head, rows)


def flow_cost(result: Any) -> str:
    """Seconds of the graph by DVC alone and by the flow."""
    return table(["command", "seconds"], ([name, f"{seconds:.1f}"] for name, seconds in result.items()))


def logging(result: Any) -> str:
    """Cost of following a run in MLflow."""
    head = [
        "network",
        "writing a row, share of a block",
        "block, followed over alone",
        "sending a row, share of a block",
    ]
    rows = (
        [name, f"{100 * own['writing']:.3f} %", own["cpu"], f"{100 * own['sending']:.2f} %"]
        for name, own in result.items()
    )
    return table(head, rows)


def demo(result: Any) -> str:
    """Seconds of the demo here and at an earlier commit, with the distances of its students."""
    judges = list(dict.fromkeys(k for own in result["fd_ratio"].values() for k in own))
    rows = [
        [tree, f"{seconds:.0f}", *(result["fd_ratio"][tree].get(k, "") for k in judges)]
        for tree, seconds in result["seconds"].items()
    ]
    return table(["tree", "seconds", *(f"FD ratio, {k}" for k in judges)], rows)


def gpu(result: Any) -> str:
    """Settings of a block on a GPU beside the plain one."""
    head = [f"network, setting ({result['device']})", "seconds", "ratio to plain"]
    rows = [
        [f"{part.removeprefix('settings, ')}, {name}", own["seconds"], own["ratio to plain"]]
        for part, settings in result.items()
        if part.startswith("settings, ") and isinstance(settings, dict)
        for name, own in settings.items()
        if isinstance(own, dict)
    ]
    return table(head, rows)


SPEED_TABLES: dict[str, Callable[[], str]] = {
    "blocks": record("turns", blocks),
    "host": record("turns", host),
    "passes": record("turns", passes),
    "roofline": record("roofline", roofline),
    "sharing": record("sharing", sharing),
    "linear": record("linear", linear),
    "plans": record("scaling", plans),
    "scaling_checks": record("scaling", checks),
    "processes": record("processes", processes),
    "memory": record("memory", memory),
    "generation": record("generation", generation),
    "flow_cost": record("flow_cost", flow_cost),
    "logging_share": record("logging_share", logging),
    "demo": record("demo", demo),
    "gpu": record("gpu", gpu),
}
