"""The summary: one row per generator, from metrics.json and timing.json."""

import math
from typing import Any

import pandas as pd

REAL, AGAIN = "real held-out", "teacher, other noise"
KNOWN_AS = {"FD inception": "FID", "FD clip_vit_b_32": "CLIP-FID"}  # by clean-fid's protocol; no other distance is
STUDENT = "student"
BRIEF = ("NFE", "FD ", "± FD ", "CLIP", "precision", "recall", "seconds")  # columns for a terminal


def sampler_name(key: str) -> str:
    """ddim_50 -> DDIM 50, heun_10 -> Heun 10."""
    name, _, steps = key.rpartition("_")
    known = {"ddim": "DDIM", "heun": "Heun"}
    return f"{known[name]} {steps}" if name in known and steps.isdigit() else key


def extractors(metrics: dict[str, Any]) -> list[str]:
    """Feature extractors in the order of the file."""
    return list(metrics["student"]["fd"])


def half_width(measures: dict[str, Any], kind: str, extractor: str) -> float:
    """Half of the 95 % interval of a distance (fd, kid); NaN where there is none."""
    interval = measures.get("interval", {}).get(kind, {}).get(extractor)
    return (interval["high"] - interval["low"]) / 2 if interval else math.nan


def _row(measures: dict[str, Any], names: list[str], latency: dict[str, Any]) -> dict[str, float]:
    row: dict[str, float] = {"NFE": measures.get("nfe", math.nan)}
    for name in names:
        row[f"FD {name}"] = measures["fd"].get(name, math.nan)
        row[f"± FD {name}"] = half_width(measures, "fd", name)
    for name in names:
        row[f"FD\N{INFINITY} {name}"] = measures.get("fd_infinity", {}).get(name, math.nan)
    for name in names:
        row[f"test FD {name}"] = measures.get("fd_held_out", {}).get(name, math.nan)
    for name in names:
        row[f"KID {name}"] = measures.get("kid", {}).get(name, math.nan)
        row[f"± KID {name}"] = half_width(measures, "kid", name)
    score = measures["clip_score"]  # None without conditions
    row["CLIP score"] = math.nan if score is None else score
    accuracy = measures.get("accuracy")
    row["accuracy"] = math.nan if accuracy is None else accuracy
    for kind in ("precision", "recall", "density", "coverage"):
        for name in names:
            row[f"{kind} {name}"] = measures.get(kind, {}).get(name, math.nan)
    row["seconds per image"] = latency.get("seconds_per_image", math.nan)
    return row


def real_name(metrics: dict[str, Any]) -> str:
    """Of the floor: held-out images, or without any images the teacher's own once more."""
    return AGAIN if metrics["judged"].get("made_by") else REAL


def summary_table(metrics: dict[str, Any], timing: dict[str, Any]) -> pd.DataFrame:
    """Real held-out images, the teacher's samplers by network passes (NFE), the student; NaN for no value."""
    names = extractors(metrics)
    latencies = timing.get("teachers", {})
    rows = {real_name(metrics): _row(metrics["real"], names, {})}
    for key, measures in sorted(metrics["teachers"].items(), key=lambda item: item[1]["nfe"]):
        rows[f"teacher {sampler_name(key)}"] = _row(measures, names, latencies.get(key, {}))
    rows[STUDENT] = _row(metrics["student"], names, timing.get("student", {}))
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.astype({"NFE": "Int64"})


def number(column: str, value: float) -> str:
    """A figure as its column wants it: three decimals (KID four), counts whole, seconds to three digits, or empty."""
    if pd.isna(value):
        return ""
    if column == "NFE":
        return f"{int(value)}"
    if column.startswith("seconds"):
        return f"{value:#.3g}" if value >= 1e-4 else f"{value:.2e}"
    if "KID" in column and abs(value) < 10:
        return f"{value:.4f}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:.1f}"


def cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table as text, each distance joined with its half interval: `0.840 ± 0.120`."""
    text = pd.DataFrame({c: [number(c, v) for v in table[c]] for c in table.columns}, index=table.index)
    for column in [c for c in table.columns if c.startswith("± ")]:
        distance = column.removeprefix("± ")
        text[distance] = [d + (f" ± {h}" if h else "") for d, h in zip(text[distance], text[column], strict=True)]
        text = text.drop(columns=column)
    text = text.rename(columns=KNOWN_AS)
    return text.loc[:, (text != "").any()]


def format_table(table: pd.DataFrame) -> str:
    """For a terminal: its narrower columns, aligned, with a heading of two lines."""
    text = cells(table.loc[:, [c for c in table if c.startswith(BRIEF)]])
    lines = [["", *(c.partition(" ")[0] for c in text.columns)], ["", *(c.partition(" ")[2] for c in text.columns)]]
    lines += [[str(name), *row] for name, row in zip(text.index, text.to_numpy().tolist(), strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(2, ["-" * w for w in widths])
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]).rstrip()
        for line in lines
    )
