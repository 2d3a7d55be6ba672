"""Words of a user become names that MLflow accepts, and different words become different names."""

import pytest
from mlflow.utils.validation import _validate_metric_name  # pyright: ignore[reportPrivateUsage] - MLflow's own rule

from flows.registry.result import metric_name, numeric_leaves
from tests.helpers.reports import generator_measures

ODD = (
    "jack-o'-lantern", "tench, Tinca tinca", "a//b", "a/../b", "/a", "a/", "..", "", " ", "é", "日本", "T-shirt/top",
    "${x}", "a\nb", "x" * 300, "x" * 299 + "y", "a'b", 'a"b', "a,b", "%", "#1", "(a)", "emoji 🙂",
)  # fmt: skip


@pytest.mark.parametrize("word", ODD)
def test_mlflow_accepts_the_name(word: str) -> None:
    _validate_metric_name(metric_name("student", "classes", word, "accuracy"))


def test_different_words_have_different_names() -> None:
    assert len({metric_name("classes", word, "accuracy") for word in ODD}) == len(ODD)


@pytest.mark.parametrize("word", ["cat", "T-shirt/top", "Ankle boot", "0", "ddim_50", "clip_vit_b_32"])
def test_an_ordinary_word_stays_as_it_is(word: str) -> None:
    assert metric_name("student", word) == f"student.{word}"


def test_class_names_of_imagenet_are_published() -> None:
    measures = generator_measures({"a": 1.0})
    classes = {name: measures.classes["cat"] for name in ("jack-o'-lantern", "tench, Tinca tinca")}
    names = numeric_leaves(measures.model_copy(update={"classes": classes}))
    for name in names:
        _validate_metric_name(name)
    assert len([name for name in names if name.endswith(".accuracy") and "lantern" in name]) == 1
