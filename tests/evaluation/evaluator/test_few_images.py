"""A reference or test split with too few images is an error before any features are extracted."""

import pytest

from dmd.config import Params
from dmd.errors import DataError
from evaluation.evaluator.reference import EvaluationData, build_reference
from tests.helpers.params import with_values
from tests.helpers.sources import split


@pytest.mark.parametrize(("real", "test", "words"), [(40, 3, "3 images of the test split"), (3, 40, "3 images of")])
def test_neighbours_beyond_the_images_are_an_error(params: Params, real: int, test: int, words: str) -> None:
    """The neighbours may have been raised after stage `data` has checked them."""
    data = EvaluationData(split(real), split(real), split(test), "", "")
    with pytest.raises(DataError, match=rf"baseline\.neighbours: 3 must be below the {words}"):
        build_reference(with_values(params, baseline={"neighbours": 3}).baseline, data, {})
