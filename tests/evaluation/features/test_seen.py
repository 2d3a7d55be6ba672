"""Extractors that share weights, family or images with a discriminator's trunk are marked, and others are not."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dmd.features.facts import TrunkFacts, describe, read_facts, write_facts
from evaluation.features.seen import find_seen
from evaluation.metrics.schema import ExtractorFacts, Ratio
from evaluation.models.build import SECOND_HALF
from tests.helpers.gan.trunks import FROZEN, small_trunk

NAMES = ("evaluator", "classifier", "efficientnet_lite0", "clip_vit_b_32", "dinov2", "inception")
EXTRACTORS = {name: ExtractorFacts(sha256=f"hash of {name}", dimensions=1, resize="none") for name in NAMES}


def seen(folder: Path, *trunks: TrunkFacts) -> set[str]:
    write_facts(trunks, folder)
    baseline = SimpleNamespace(provenance=SimpleNamespace(extractors=EXTRACTORS))
    return set(find_seen(folder, baseline, folder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "family", "marked"),
    [
        ("efficientnet_lite1", "efficientnet", {"efficientnet_lite0"}),
        ("clip:folder", "clip", {"clip_vit_b_32"}),
        ("dinov2:folder", "dinov2", {"dinov2"}),
        ("torchvision.inception_v3:file", "inception", {"inception"}),
        ("torchvision.vgg16:file", "vgg", set()),
        ("own", "own", {"evaluator", "classifier"}),
    ],
)
def test_a_trunk_marks_its_family(tmp_path: Path, name: str, family: str, marked: set[str]) -> None:
    assert seen(tmp_path, TrunkFacts(name=name, family=family, sha256="another")) == marked


def test_equal_weights_are_marked_whatever_the_family(tmp_path: Path) -> None:
    assert seen(tmp_path, TrunkFacts(name="timm:x", family="resnet", sha256="hash of classifier")) == {"classifier"}


def test_judges_of_the_other_half_are_not_marked_by_the_own_trunk(tmp_path: Path) -> None:
    (tmp_path / SECOND_HALF).touch()
    assert seen(tmp_path, TrunkFacts(name="own", family="own", sha256="")) == set()


def test_without_trunks_nothing_is_marked(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == [] and seen(tmp_path) == set()


def test_facts_name_family_and_weights_of_loaded_trunks() -> None:
    own, lite = describe({"own": small_trunk(), FROZEN: small_trunk()})
    assert (own.name, own.sha256) == ("own", "") and lite.family == "efficientnet" and len(lite.sha256) == 64


def test_the_ratio_shows_the_mark_and_the_mean_of_the_unmarked() -> None:
    fd = {"classifier": 0.9, "efficientnet_lite0": 0.5}
    assert str(Ratio(fd=fd, interval={})) == "classifier 0.900, efficientnet_lite0 0.500"
    marked = Ratio(fd=fd, interval={}, seen={"efficientnet_lite0": "why"}, unseen=0.9)
    assert str(marked) == "classifier 0.900, efficientnet_lite0 0.500 (seen in training), unseen 0.900"
    assert "seen" not in Ratio(fd=fd, interval={}).model_dump()  # older files stay as they are
