"""Words of a user become names that MLflow accepts, and different words become different names."""

import pytest
from mlflow.utils.validation import _validate_metric_name  # pyright: ignore[reportPrivateUsage] - MLflow's own rule

from flows.registry.figures import list_metrics, metric_name
from tests.helpers.reports import generator_measures, run_metrics

ODD = (
    "jack-o'-lantern", "tench, Tinca tinca", "a//b", "a/../b", "/a", "a/", "..", "", " ", "é", "日本", "T-shirt/top",
    "${x}", "a\nb", "x" * 300, "x" * 299 + "y", "a'b", 'a"b', "a,b", "%", "#1", "(a)", "emoji 🙂",
)  # fmt: skip


@pytest.mark.parametrize("word", ODD)
def test_mlflow_accepts_the_name(word: str) -> None:
    for grouped in (True, False):
        name = metric_name(("student", "classes", word, "accuracy"), grouped)
        _validate_metric_name(name)
        assert name.count("/") == grouped  # a "/" in a word would make a group of its own on MLflow's page


def test_different_words_have_different_names() -> None:
    assert len({metric_name(("classes", word, "accuracy"), True) for word in ODD}) == len(ODD)


@pytest.mark.parametrize("word", ["cat", "T-shirt", "Ankle boot", "0", "ddim_50", "clip_vit_b_32"])
def test_an_ordinary_word_stays_as_it_is(word: str) -> None:
    assert metric_name(("student", word), False) == f"student.{word}"
    assert metric_name(("student", word), True) == f"student/{word}"


def test_class_names_of_imagenet_are_published() -> None:
    measures = generator_measures({"a": 1.0})
    classes = {name: measures.classes["cat"] for name in ("jack-o'-lantern", "tench, Tinca tinca")}
    names = list_metrics(run_metrics(measures.model_copy(update={"classes": classes}), {"a": 1.0}))
    for name in names:
        _validate_metric_name(name)
    assert (
        len(
            [name for name in names if name.startswith("student/") and name.endswith(".accuracy") and "lantern" in name]
        )
        == 1
    )
