"""Schema of reports/metrics.json and artifacts/baseline/baseline.json; any other key is an error.

Each measure of the table of measures is a field with the name of the measure; `values` reads it.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from dmd.errors import EvaluatorError, NumberError
from dmd.storage.files import write_text
from evaluation.metrics.finite import find_infinite_figure
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
    held_out: float = Field(description="median distance of held-out images, which no generator has seen")
    closer: float = Field(description="share nearer than 1 % of the held-out images; well above 0.01: memorised images")


class Scores(MeasureFields[float]):
    """Measures of one replicate."""

    nearest: dict[str, Nearest]
    classes: dict[str, ClassMeasures]


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
        description="extractors that training has seen, by a discriminator's trunk, and how",
    )
    unseen: float | None = Field(
        default=None,
        exclude_if=lambda ratio: ratio is None,
        description="mean of the ratios by extractors that training has not seen; absent if it has seen all",
    )

    def __str__(self) -> str:
        """The ratio by each extractor, with a mark for one that training has seen, and the mean of the others."""
        ratios = [f"{k} {v:.3f}" + (" (seen in training)" if k in self.seen else "") for k, v in self.fd.items()]
        if self.seen:
            ratios.append("unseen " + ("none" if self.unseen is None else f"{self.unseen:.3f}"))
        return ", ".join(ratios)


class ExtractorFacts(StrictModel):
    """Identity of a feature extractor; figures by different extractors cannot be compared."""

    sha256: str = Field(description="hash of its weights and settings")
    dimensions: int
    resize: str = Field(description="how images become its input")


class Provenance(StrictModel):
    """Everything that the figures depend on, apart from the generator."""

    reference_sha256: str = Field(description="hash of the real images, or of the features of their substitutes")
    reference_images: int
    held_out_sha256: str = Field(description="hash of the test images, or of the test prompts")
    conditions_sha256: str = Field(description="hash of the labels and captions that images are generated for")
    teacher_sha256: str = Field(description="hash of the teacher's folder")
    guidance_scale: float
    neighbours: int = Field(description="k of precision, recall, density and coverage")
    extractors: dict[str, ExtractorFacts]
    skipped: dict[str, str] = Field(description="extractors without weights on this machine, and why")
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


class Metrics(Baseline):
    """Contents of reports/metrics.json."""

    student: GeneratorMeasures
    ratio: Ratio


def write_model(model: StrictModel, path: Path) -> None:
    """Write JSON with sorted keys. Validates again first, as fields may have been assigned since construction.

    Raises NumberError for a figure that is NaN or infinite.
    """
    content = model.model_dump()
    if figure := find_infinite_figure(content):
        raise NumberError(f"{path}: {figure} is NaN or infinite; it is not written, since it measures nothing")
    checked = type(model).model_validate(content, context=WRITING)
    write_text(path, json.dumps(checked.model_dump(), indent=2, sort_keys=True) + "\n")


def read_model(kind: type[M], path: Path) -> M:
    """Read a file that `write_model` wrote. Raises EvaluatorError if its contents are not of this kind."""
    return parse_model(kind, path.read_bytes(), str(path))


def parse_model(kind: type[M], text: str | bytes, source: str) -> M:
    """Parse JSON that `write_model` wrote. Raises EvaluatorError, prefixed by `source`, if it is not of this kind."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as e:
        error = e.errors()[0]
        where = ".".join(map(str, error["loc"])) or "the whole file"
        raise EvaluatorError(
            f"{source}: {where}: {error['msg']}; if another version of the project wrote the file, run `dvc repro` or "
            "check out that version"
        ) from None
