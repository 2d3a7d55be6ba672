"""What reports/metrics.json and reports/timing.json hold. Nothing is written that is not named here."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dmd.files import write_text

PerExtractor = dict[str, float]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Interval(Record):
    low: float
    high: float


class Intervals(Record):
    fd: dict[str, Interval]


class Measures(Record):
    """One generator, judged: every figure is the mean over `draws` noise draws of `samples` images each."""

    nfe: int = Field(ge=1, description="network passes per image")
    fd: PerExtractor = Field(description="Frechet distance to the train split, per extractor")
    kid: PerExtractor = Field(description="squared MMD to the train split, cubic kernel, unbiased")
    precision: PerExtractor
    recall: PerExtractor
    clip_score: float | None = Field(description="100 x cosine of image and caption, mean; None without conditions")
    samples: int = Field(description="images per draw")
    draws: int
    interval: Intervals = Field(description="95 % interval of the mean over draws (Student's t)")


class RealMeasures(Record):
    """The floor: held-out real images by the same measures."""

    clip_score: float
    fd: PerExtractor = Field(description="held-out against train split")
    precision: PerExtractor
    recall: PerExtractor
    samples: int


class Ratio(Record):
    fd: PerExtractor = Field(description="student / best teacher")


class Baseline(Record):
    """What the baseline stage knows: the teachers and the floor."""

    teachers: dict[str, Measures]
    real: RealMeasures
    best_teacher: dict[str, str] = Field(description="the sampler with the lowest distance, per extractor")


class Metrics(Baseline):
    """reports/metrics.json."""

    student: Measures
    ratio: Ratio


class Latency(Record):
    nfe: int
    seconds_per_image: float


class Host(Record):
    machine: str
    processor: str
    device: str
    threads: int
    python: str
    torch: str


class Timing(Record):
    """reports/timing.json: measured in one process, teacher and student in turn; never an input of anything."""

    student: Latency
    teachers: dict[str, Latency]
    speedup: PerExtractor = Field(description="seconds of a teacher's sampler / seconds of the student")
    batch_size: int
    repeats: int
    peak_memory_mib: float = Field(description="largest resident set of the process")
    host: Host


def write_record(record: Record, path: Path) -> None:
    """Write as JSON with sorted keys; re-validated, so that a changed record can't slip through."""
    checked = type(record).model_validate(record.model_dump())
    write_text(path, json.dumps(checked.model_dump(), indent=2, sort_keys=True) + "\n")
