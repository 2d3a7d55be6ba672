"""Schema of a run's measures and of artifacts/baseline/baseline.json; any other key is an error.

evaluation/metrics/files.py divides the measures into reports/metrics.json and reports/details.json. Each measure of the
table of measures is a field with the name of the measure; `values` reads it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from dmd.config import EVERYWHERE
from dmd.errors import EvaluatorError, NumberError, quote
from dmd.storage.files import write_text
from evaluation.metrics.finite import find_infinite_figure
from evaluation.metrics.marks import SEEN, SELECTS, format_mark
from evaluation.metrics.measures import MEASURES, Measure
from evaluation.statistics.intervals import Interval

V = TypeVar("V", float, Interval)
M = TypeVar("M", bound="StrictModel")

RANKING = "fd"  # the measure that ranks samplers and whose ratio is the result; no file is without it
WRITING = "writing"  # validation context of a model that is about to be written
ALL_PAIRS, INDEPENDENT_PAIRS = "all", "independent"  # values of Provenance.kernel_pairs


class StrictModel(BaseModel):
    """Base of all models: unknown keys, infinities and NaN are errors, and aliases are the keys of the file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_by_name=True, serialize_by_alias=True)


class MeasureFields(StrictModel, Generic[V]):
    """Base of models with a field for each measure, beside the fields that the class declares.

    A measure per extractor is a dict, any other measure a single value or None. A file may lack measures, because they
    were added to the table after it was written; a model that is written has them all.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, V] | V | None] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride] - pydantic's way to type extra fields

    @classmethod
    def measures(cls) -> Iterable[Measure]:
        """Measures that are fields of this class."""
        return (m for m in MEASURES.values() if m.has_interval)

    @model_validator(mode="after")
    def _check_fields(self, info: ValidationInfo) -> "MeasureFields[V]":
        measures = {m.name: m for m in self.measures()}
        required = measures.keys() if info.context == WRITING else {RANKING}
        if unknown := sorted(self.__pydantic_extra__.keys() - measures.keys()):
            raise ValueError(f"unknown measures: {', '.join(unknown)}")
        if missing := sorted(required - self.__pydantic_extra__.keys()):
            raise ValueError(f"missing measures: {', '.join(missing)}")
        for name, value in self.__pydantic_extra__.items():
            if isinstance(value, dict) != measures[name].per_extractor:
                expected = "a value for each extractor" if measures[name].per_extractor else "a single value"
                raise ValueError(f"{name}: {expected} is expected")
        return self

    def values(self, name: str) -> dict[str, V]:
        """Values of a measure by extractor; the key is "" for a measure without extractors.

        Empty if the measure is undefined, absent from the file, or no field of this class. Raises KeyError for an
        unknown measure.
        """
        value = self.__pydantic_extra__.get(MEASURES[name].name)
        if isinstance(value, dict):
            return value
        return {} if value is None else {"": value}


class Intervals(MeasureFields[Interval]):
    """95 % interval of each mean over replicates, or of a single replicate by the jackknife."""


class ClassMeasures(StrictModel):
    """Measures of one class, by the classifier's features."""

    accuracy: float = Field(description="share of generated images that the classifier assigns to the class")
    coverage: float = Field(description="share of training images with a generated image in their neighbourhood")
    diversity: float = Field(description="mean distance between generated images / between training images")


class Nearest(StrictModel):
    """Distance of images to the training split; a copy has distance 0."""

    median: float = Field(description="median distance to the nearest training image")
    held_out: float = Field(description="median distance of held-out images without copies; 0: all are copies")
    closer: float = Field(description="share nearer than 1 % of the held-out images; well above 0.01: memorised images")


class Scores(MeasureFields[float]):
    """Measures of one replicate."""

    nearest: dict[str, Nearest]
    classes: dict[str, ClassMeasures]

    @classmethod
    def measures(cls) -> Iterable[Measure]:
        return (m for m in MEASURES.values() if m.per_replicate)


class GeneratorMeasures(MeasureFields[float]):
    """Measures of one generator: means over `replicates` sets of `samples` images, each from different noise."""

    nfe: int = Field(ge=1, description="network passes per image")
    nearest: dict[str, Nearest]
    classes: dict[str, ClassMeasures] = Field(description="by class name; empty without classes")
    samples: int = Field(description="images per replicate")
    replicates: int = Field(validation_alias="draws", serialization_alias="draws")
    seed: int = Field(description="seed of the noise; the seed of a replicate depends on it and on the replicate")
    interval: Intervals

    @classmethod
    def measures(cls) -> Iterable[Measure]:
        return MEASURES.values()


class RealMeasures(MeasureFields[float]):
    """Measures of held-out real images against the reference: the floor."""

    samples: int

    @classmethod
    def measures(cls) -> Iterable[Measure]:
        return (m for m in MEASURES.values() if m.for_real_images)


class Ratio(StrictModel):
    """FD of the student over that of the teacher's best sampler, per extractor."""

    fd: dict[str, float]
    interval: dict[str, Interval] = Field(description="95 % interval of the ratio, by Welch's t on logarithms of means")
    seen: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda seen: not seen,
        description="extractors and judges that training has seen, by a frozen network of its losses, and how",
    )
    selects: list[str] = Field(
        default_factory=list,
        exclude_if=lambda names: not names,
        description="extractors whose validation while training picks the generator",
    )
    unseen: float | None = Field(
        default=None,
        exclude_if=lambda ratio: ratio is None,
        description="mean of the ratios by extractors that are neither seen nor selecting; absent if there is none",
    )

    def mark(self, extractor: str) -> str:
        """Text of the marks of an extractor or judge, such as " (selects)"; empty without a mark."""
        return format_mark(extractor, self.seen, self.selects)

    def marks(self) -> dict[str, str]:
        """Text of the marks of each marked extractor and judge, with the reason for `seen`."""
        names = dict.fromkeys([*self.fd, *self.seen])
        seen = {k: [f"{SEEN}: {self.seen[k]}"] if k in self.seen else [] for k in names}
        marks = {k: "; ".join(texts + [SELECTS] * (k in self.selects)) for k, texts in seen.items()}
        return {k: text for k, text in marks.items() if text}

    def __str__(self) -> str:
        """The ratio by each extractor with its marks, and the mean of those without one."""
        ratios = [f"{k} {v:.3f}{self.mark(k)}" for k, v in self.fd.items()]
        if self.seen or self.selects:
            ratios.append("unmarked " + ("none" if self.unseen is None else f"{self.unseen:.3f}"))
        return ", ".join(ratios)


class ExtractorFacts(StrictModel):
    """Identity of a feature extractor; figures by different extractors cannot be compared."""

    sha256: str = Field(description="hash of its weights and settings")
    dimensions: int
    resize: str = Field(description="how images become its input")


class JudgeFacts(StrictModel):
    """Identity of a judge of text to image; scores by different judges cannot be compared."""

    sha256: str = Field(description="hash of its weights")
    processor: str = Field(description="hash of its tokenizer and image processor")

    @property
    def identity(self) -> str:
        """Everything that a score depends on, for the same image and caption."""
        return f"{self.sha256} {self.processor}"


class Provenance(StrictModel):
    """Everything that the figures depend on, apart from the generator."""

    reference_sha256: str = Field(description="hash of the real images, or of the features of their substitutes")
    reference_images: int
    held_out_sha256: str = Field(description="hash of the test images, or of the test prompts")
    conditions_sha256: str = Field(description="hash of the labels and captions that images are generated for")
    teacher_sha256: str = Field(description="hash of the teacher's folder")
    guidance_scale: float
    guidance_interval: tuple[float, float] = Field(
        default=EVERYWHERE,
        exclude_if=lambda interval: interval == EVERYWHERE,
        description="lowest and highest guided noise level, as shares of T; absent if every level is guided",
    )
    guidance_rescale: float = Field(
        default=0.0,
        exclude_if=lambda rescale: rescale == 0,
        description="share of the guided output that keeps the standard deviation without guidance; absent if none",
    )
    teacher_precision: str = Field(default="fp32", exclude_if=lambda p: p == "fp32", description="type of its weights")
    neighbours: int = Field(description="k of precision, recall, density and coverage")
    extractors: dict[str, ExtractorFacts]
    judges: dict[str, JudgeFacts] = Field(
        default_factory=dict,
        exclude_if=lambda judges: not judges,
        description="judges of text to image; absent if there is none",
    )
    skipped: dict[str, str] = Field(description="extractors and judges without weights on this machine, and why")
    kernel_pairs: str = Field(
        default=ALL_PAIRS,
        exclude_if=lambda pairs: pairs == ALL_PAIRS,
        description="pairs of images that KID averages over; absent before pairs of one label's source were left out",
    )
    made_by: str | None = Field(
        default=None,
        exclude_if=lambda name: name is None,
        description="the teacher's sampler whose images are the reference; absent if real images are",
    )


class Baseline(StrictModel):
    """Figures of the baseline stage: the teacher's samplers and the floor."""

    teachers: dict[str, GeneratorMeasures]
    real: RealMeasures
    best_teacher: dict[str, str] = Field(description="the sampler with the lowest FD, per extractor")
    provenance: Provenance = Field(validation_alias="judged", serialization_alias="judged")
    fd_replicates: dict[str, dict[str, list[float]]] = Field(
        validation_alias="fd_draws",
        serialization_alias="fd_draws",
        description="FD of each replicate, by the teacher's sampler and extractor",
    )
    taken_over: list[str] = Field(description="samplers whose figures come from an earlier run (baseline.measured)")


class TrainingCost(StrictModel):
    """Cost of the generator's training, over all phases."""

    turns: int = Field(description="turns of the generator")
    images: int = Field(description="images that the generator made in its turns")
    images_of: dict[str, int] = Field(default_factory=dict, description="images in the turns of each other network")


class Metrics(Baseline):
    """All measures of a run: reports/metrics.json and reports/details.json together."""

    student: GeneratorMeasures
    ratio: Ratio
    training: TrainingCost | None = Field(
        default=None, exclude_if=lambda cost: cost is None, description="absent from files of earlier versions"
    )


def write_model(model: StrictModel, path: Path) -> None:
    """Write JSON with sorted keys. Raises NumberError for a figure that is NaN or infinite."""
    write_text(path, json.dumps(dump_checked(model, path), indent=2, sort_keys=True) + "\n")


def dump_checked(model: StrictModel, path: Path) -> dict[str, Any]:
    """The content of a model that is about to be written, validated again: fields may have been assigned since.

    Raises NumberError, prefixed by `path`, for a figure that is NaN or infinite.
    """
    content = model.model_dump()
    if figure := find_infinite_figure(content):
        raise NumberError(f"{path}: {figure} is NaN or infinite; it is not written, since it measures nothing")
    return type(model).model_validate(content, context=WRITING).model_dump()


def read_model(kind: type[M], path: Path) -> M:
    """Read a file that `write_model` wrote. Raises EvaluatorError if its contents are not of this kind."""
    return parse_model(kind, path.read_bytes(), str(path))


def parse_model(kind: type[M], text: str | bytes, source: str) -> M:
    """Parse JSON that `write_model` wrote. Raises EvaluatorError, prefixed by `source`, if it is not of this kind."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(quote, error["loc"])) or "the whole file"
        raise EvaluatorError(
            f"{source}: {where}: {error['msg']}; if another version of the project wrote the file, run `dvc repro` or "
            "check out that version"
        ) from None
