"""Words of a user become names that git, DVC and Prefect accept, and different words become different names."""

import subprocess

import pytest
from prefect.client.schemas.actions import ArtifactCreate
from pydantic import ValidationError

from flows.ablation.plan import Ablation
from flows.pipeline.presets import make_variants
from flows.runtime.names import LENGTH, make_artifact_key, make_identifier
from tests.helpers.projects import ROOT

ODD = (
    "é", "日本", "", " ", "a b", "a..b", "a.lock", ".a", "-a", "a/b", "a~b", "a^", "a:b", "a?", "a*", "a[", "a\\", "@",
    "@{", "a\nb", "a'b", "x" * 300, "x" * 299 + "y", "🙂", "a-", "_", "\udce9",
)  # fmt: skip


@pytest.mark.parametrize("word", ODD)
def test_git_and_prefect_accept_the_name(word: str) -> None:
    name = make_identifier(word)
    assert subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=False).returncode == 0
    assert name.isascii() and not name.startswith("-") and len(name) <= LENGTH + 7
    ArtifactCreate(key=make_artifact_key("ablation", word))


def test_different_words_have_different_names() -> None:
    assert len({make_identifier(word) for word in ODD}) == len(ODD)


@pytest.mark.parametrize("word", ["quick", "fashion_mnist", "run-1", "K7"])
def test_an_ordinary_word_stays_as_it_is(word: str) -> None:
    assert make_identifier(word) == word


def test_prefect_refuses_other_keys() -> None:
    with pytest.raises(ValidationError):
        ArtifactCreate(key="ablation-é")
    assert make_artifact_key("ablation", "k", "row_1") == "ablation-k-row-1"


def test_rows_of_a_grid_are_named_whatever_their_values() -> None:
    values = ["é", "è", "a b", "a_b", "A b", "x" * 300, 0.1, -1, True]
    ablation = Ablation(description="d", seeds=[0], grid={"data.caption": values})
    names = [row.name for row in ablation.all_rows()]
    assert len(set(names)) == len(values) and names[6:] == ["caption_0_1", "caption__1", "caption_true"]


def test_an_experiment_of_a_preset_with_an_odd_name_can_be_saved(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("presets")
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (root / "experiments" / "presets").mkdir(parents=True)
    (root / "experiments" / "presets" / "mein é..lock.yaml").write_text("description: d\nchanges: {train.seed: 3}\n")
    (variant,) = make_variants(root, "mein é..lock", {}, [])
    reference = f"refs/exps/ab/cd/{variant.experiment}"
    assert subprocess.run(["git", "check-ref-format", reference], check=False).returncode == 0
