"""What reports/metrics.json and reports/timing.json hold. Nothing is written that is not named here."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dmd.storage.files import write_text
from evaluation.statistics.intervals import Interval

PerExtractor = dict[str, float]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Intervals(Record):
    """95 % intervals (Student's t) of the mean over draws; of one draw, from its jackknife."""

    fd: dict[str, Interval]
    fd_held_out: dict[str, Interval]
    kid: dict[str, Interval]
    precision: dict[str, Interval]
    recall: dict[str, Interval]
    density: dict[str, Interval]
    coverage: dict[str, Interval]
    clip_score: Interval | None
    accuracy: Interval | None


class ClassMeasures(Record):
    """One class, by the classifier's features."""

    accuracy: float = Field(description="share of its images that the classifier takes for it")
    coverage: float = Field(description="share of its train images with a generated one of it among their neighbours")
    diversity: float = Field(description="mean distance of two of its images / that of its train images")


class Nearest(Record):
    """How near images lie to the train split: a copy lies at 0."""

    median: float = Field(description="median distance to the nearest train image")
    held_out: float = Field(description="the same of held-out images, which no generator has seen")
    closer: float = Field(description="share nearer than 1 % of held-out images are; far above 0.01: memorised")


class Scores(Record):
    """The measures of one draw."""

    fd: PerExtractor
    fd_held_out: PerExtractor
    kid: PerExtractor
    precision: PerExtractor
    recall: PerExtractor
    density: PerExtractor
    coverage: PerExtractor
    nearest: dict[str, Nearest]
    clip_score: float | None
    accuracy: float | None
    classes: dict[str, ClassMeasures]


class Measures(Record):
    """One generator, judged: every figure is the mean over `draws` noise draws of `samples` images each."""

    nfe: int = Field(ge=1, description="network passes per image")
    fd: PerExtractor = Field(description="Frechet distance to the reference, per extractor")
    fd_held_out: PerExtractor = Field(description="the same to the test split; with few test images, too large")
    fd_infinity: PerExtractor = Field(
        description="the same, extrapolated to infinitely many samples, all draws together"
    )
    kid: PerExtractor = Field(description="squared MMD to the reference, cubic kernel, unbiased")
    precision: PerExtractor
    recall: PerExtractor
    density: PerExtractor
    coverage: PerExtractor
    nearest: dict[str, Nearest]
    clip_score: float | None = Field(description="100 x cosine of image and caption, mean; None without conditions")
    accuracy: float | None = Field(description="share of images taken for their own class; None without classes")
    classes: dict[str, ClassMeasures] = Field(description="by class name; empty without classes")
    samples: int = Field(description="images per draw")
    draws: int
    seed: int = Field(description="of the noise; draw d has a seed made of this and d")
    interval: Intervals


class RealMeasures(Record):
    """The floor: held-out real images by the same measures."""

    clip_score: float
    accuracy: float | None = Field(description="None without classes")
    fd: PerExtractor = Field(description="held-out against reference")
    precision: PerExtractor
    recall: PerExtractor
    density: PerExtractor
    coverage: PerExtractor
    samples: int


class Ratio(Record):
    fd: PerExtractor = Field(description="student / best teacher")
    interval: dict[str, Interval] = Field(
        description="95 % interval of the ratio (Welch's t on the logarithms of the draws)"
    )


class ExtractorFacts(Record):
    """What made the features, so that a figure can be compared with another."""

    sha256: str = Field(description="of its weights and settings")
    dimensions: int
    resize: str = Field(description="how images become its input")


class Judged(Record):
    """What stands behind every figure."""

    reference_sha256: str = Field(description="of the real images, or of the features of what stands for them")
    reference_images: int
    held_out_sha256: str = Field(description="of the test images, or of the test prompts")
    conditions_sha256: str = Field(description="of the labels and captions that images are made for")
    teacher_sha256: str = Field(description="of its folder")
    guidance_scale: float
    neighbours: int = Field(description="k of precision, recall, density and coverage")
    extractors: dict[str, ExtractorFacts]
    skipped: dict[str, str] = Field(description="extractors whose weights are not at hand, and why")
    made_by: str | None = Field(
        default=None,
        exclude_if=lambda name: name is None,
        description="the teacher's sampler whose images are the reference; None, and left out, where that is real ones",
    )


class Baseline(Record):
    """What the baseline stage knows: the teachers and the floor."""

    teachers: dict[str, Measures]
    real: RealMeasures
    best_teacher: dict[str, str] = Field(description="the sampler with the lowest distance, per extractor")
    judged: Judged
    fd_draws: dict[str, dict[str, list[float]]] = Field(description="of each teacher, per extractor, draw by draw")
    taken_over: list[str] = Field(
        description="samplers of the teacher that an earlier run measured (baseline.measured)"
    )


class Metrics(Baseline):
    """reports/metrics.json."""

    student: Measures
    ratio: Ratio


class Latency(Record):
    nfe: int
    seconds_per_image: float = Field(description="in batches of batch_size")
    seconds_alone: float = Field(description="of one image by itself")
    gflops_per_image: float = Field(description="of all network passes and of decoding; multiply and add count as two")


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
    images_per_second: float = Field(description="of the student, in its best batch")
    best_batch: int
    parameters: int = Field(description="of the student's network")
    batch_size: int
    repeats: int
    peak_memory_mib: float = Field(description="largest resident set of the process")
    host: Host


def write_record(record: Record, path: Path) -> None:
    """Write as JSON with sorted keys; re-validated, so that a changed record can't slip through."""
    checked = type(record).model_validate(record.model_dump())
    write_text(path, json.dumps(checked.model_dump(), indent=2, sort_keys=True) + "\n")
