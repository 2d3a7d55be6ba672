"""Ranges and lists of values that a parameter may take, in ablation files and in search files."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, model_validator

from flows.pipeline.changes import Change

DIGITS = 6  # significant digits of the points of a range
Bound = StrictInt | Annotated[float, Field(strict=True, allow_inf_nan=False)]


class Range(BaseModel):
    """All values from a lower to an upper bound, on a linear or a logarithmic scale; whole numbers if both bounds are.

    {log: [1.0e-5, 1.0e-3], n: 8} are eight values with equal ratios, {linear: [1, 5], n: 5} five with equal distances.
    A search draws from the whole range and takes no n; a grid of an ablation needs n.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    log: Annotated[list[Bound], Field(min_length=2, max_length=2)] | None = None
    linear: Annotated[list[Bound], Field(min_length=2, max_length=2)] | None = None
    n: int | None = Field(default=None, ge=2, le=1000)

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if (self.log is None) == (self.linear is None):
            raise ValueError("write either log: [LOW, HIGH] or linear: [LOW, HIGH]")
        low, high = self.bounds
        if low >= high:
            raise ValueError(f"the lower bound {low} must be below the upper bound {high}")
        if self.log is not None and low <= 0:
            raise ValueError(f"the lower bound {low} of a logarithmic range must be above 0")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound."""
        low, high = self.log or self.linear or [0, 0]
        return low, high

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers."""
        return all(isinstance(bound, int) for bound in self.bounds)

    def points(self) -> list[Change]:
        """Return `n` values from bound to bound, or both bounds without n; whole numbers are rounded, each once."""
        (low, high), n = self.bounds, self.n or 2
        shares = [i / (n - 1) for i in range(n)]
        values = [low * (high / low) ** s if self.log else low + s * (high - low) for s in shares]
        if self.is_whole:
            return list(dict.fromkeys(round(v) for v in values))
        return [float(f"{v:.{DIGITS}g}") for v in values]


Values = Annotated[list[Change], Field(min_length=1)]
Dimension = Range | Values


def expand(values: Dimension) -> list[Change]:
    """Return the values of a list, or the points of a range."""
    return values.points() if isinstance(values, Range) else list(values)


def size(values: Dimension) -> int:
    """Return the number of values of a list, or of the points of a range."""
    return values.n or 2 if isinstance(values, Range) else len(values)


def edges(values: Dimension) -> list[Change]:
    """Return the values to validate in place of all: every value of a list, the bounds of a range."""
    return list(values.bounds) if isinstance(values, Range) else list(values)
