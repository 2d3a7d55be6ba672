"""Extractors that share weights, family or images with a discriminator's trunk are marked, and others are not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dmd.config import Params, WeightsSource
from dmd.data.splits import SPLITS, images_sha256, load_split
from dmd.distillation.records import learned_from
from dmd.errors import FeatureNetworkError
from dmd.features.facts import TrunkFacts, describe, read_facts, write_facts
from dmd.storage.checkpoint import Scratch
from evaluation.evaluator.student import add_student
from evaluation.features.seen import find_seen
from evaluation.judges.load import JUDGES
from evaluation.metrics.schema import Baseline, ExtractorFacts, JudgeFacts, Ratio, Scores
from evaluation.models.build import OF_SECOND_HALF, PUBLISHED, SECOND_HALF, build_evaluator, has_published_clip
from tests.helpers.gan.trunks import FROZEN, small_trunk
from tests.helpers.networks import CPU
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT
from tests.helpers.reports import generator_measures, run_metrics

NAMES = ("evaluator", "classifier", "efficientnet_lite0", "clip_vit_b_32", "dinov2", "inception")
EXTRACTORS = {name: ExtractorFacts(sha256=f"hash of {name}", dimensions=1, resize="none") for name in NAMES}

OF_IMAGENET = {"efficientnet_lite0", "inception", "dinov2"}  # whose training images have the trunk's labels


def seen(folder: Path, *trunks: TrunkFacts, judges: dict[str, JudgeFacts] | None = None) -> set[str]:
    write_facts(trunks, folder)
    baseline = SimpleNamespace(provenance=SimpleNamespace(extractors=EXTRACTORS, judges=judges or {}))
    return set(find_seen(folder, baseline, folder))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "family", "marked"),
    [
        ("efficientnet_lite1", "efficientnet", OF_IMAGENET),
        ("clip:folder", "clip", {"clip_vit_b_32"}),
        ("dinov2:folder", "dinov2", {"dinov2"}),
        ("torchvision.inception_v3:file", "inception", OF_IMAGENET),
        ("torchvision.vgg16:file", "vgg", OF_IMAGENET),
        ("timm:owner/name", "resnet", OF_IMAGENET),
        ("own", "own", {"evaluator", "classifier"}),
    ],
)
def test_a_trunk_marks_its_family_and_judges_of_its_labels(
    tmp_path: Path, name: str, family: str, marked: set[str]
) -> None:
    assert seen(tmp_path, TrunkFacts(name=name, family=family, sha256="another")) == marked


def test_equal_weights_are_marked_whatever_the_family(tmp_path: Path) -> None:
    trunk = TrunkFacts(name="clip:x", family="resnet", sha256="hash of classifier")
    assert seen(tmp_path, trunk) == {"classifier"}


@pytest.mark.parametrize(
    ("half", "split", "marked"),
    [
        ("{text}\nabc\n", "abc", set()),
        ("{text}\nabc\n", "abd", {"evaluator", "classifier"}),  # another partition of the images
        ("{text}\nabc\n", "", {"evaluator", "classifier"}),  # the trunk of an earlier version
        ("Trained on the images at odd positions of the train split.\n", "abc", {"evaluator", "classifier"}),
        ("", "", {"evaluator", "classifier"}),
    ],
)
def test_judges_of_the_other_half_of_the_same_split_are_not_marked_by_the_own_trunk(
    tmp_path: Path, half: str, split: str, marked: set[str]
) -> None:
    (tmp_path / SECOND_HALF).write_text(half.format(text=OF_SECOND_HALF))
    assert seen(tmp_path, TrunkFacts(name="own", family="own", sha256="", split=split)) == marked


def test_stage_evaluator_and_stage_train_name_the_same_split(
    params: Params, data_folder: Path, tmp_path: Path, scratch: Scratch
) -> None:
    splits = {name: load_split(data_folder, name) for name in SPLITS}
    changes = {"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1, "images": "second_half"}
    build_evaluator(with_values(params, evaluator=changes).evaluator, splits, tmp_path, CPU, scratch)
    method: Any = SimpleNamespace(frozen={"own": small_trunk()}, cfg=params.method)
    of_train, of_another = ({*seen(tmp_path, *learned_from(method, splits[s]))} for s in ("train", "test"))
    assert of_another - of_train == {"evaluator", "classifier"}


def test_a_published_clip_is_of_the_family_of_a_clip_trunk_and_has_not_seen_its_images(tmp_path: Path) -> None:
    clip = TrunkFacts(name="clip:folder", family="clip", sha256="another")
    own = TrunkFacts(name="own", family="own", sha256="", split="x")
    assert seen(tmp_path, clip) == {"clip_vit_b_32"}
    (tmp_path / PUBLISHED).touch()
    assert seen(tmp_path, clip) == {"clip_vit_b_32", "evaluator"} and seen(tmp_path, own) == {"classifier"}


def test_a_clip_from_a_folder_is_published_and_one_that_is_trained_here_is_not(
    params: Params, data_folder: Path, tmp_path: Path, scratch: Scratch
) -> None:
    splits = {name: load_split(data_folder, name) for name in SPLITS}
    small = {"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1}
    folders = {"train": "none", "folder": str(tmp_path / "train/clip"), "copy": str(tmp_path / "folder")}
    for name, folder in folders.items():
        (tmp_path / name).mkdir()
        source = "train" if name == "train" else "folder"
        cfg = with_values(params, evaluator=small | {"source": source, "folder": folder}).evaluator
        build_evaluator(cfg, splits, tmp_path / name, CPU, scratch.part(name))
    assert [has_published_clip(tmp_path / name) for name in folders] == [False, True, True]


def test_the_networks_of_an_earlier_training_are_kept(params: Params, data_folder: Path, tmp_path: Path) -> None:
    """A generator learned from `first`, and the next one starts from it: it has seen the same judges."""
    start, vgg, split = tmp_path / "start", tmp_path / "vgg.pth", load_split(data_folder, "train")
    start.mkdir()
    vgg.write_bytes(b"weights")
    first = TrunkFacts(name="dinov2:x", family="dinov2", sha256="another")
    values = {
        "init_from": str(start),
        "regression_loss": "lpips",
        "lpips": WeightsSource(weights=str(vgg), sha256="any"),
    }
    method: Any = SimpleNamespace(frozen={}, cfg=with_values(params, method=values).method)
    assert [facts.name for facts in learned_from(method, split)] == ["lpips"]  # nothing is known of an earlier folder
    write_facts([first], start)
    assert learned_from(method, split)[1:] == [first]
    assert seen(tmp_path, *learned_from(method, split)) == OF_IMAGENET
    (start / "trunks.json").write_text("{")
    with pytest.raises(FeatureNetworkError, match=r"trunks\.json cannot be read: .*; run the train stage"):
        learned_from(method, split)


def test_the_evaluator_of_fashion_mnist_names_a_split() -> None:
    """Preset fashion_mnist_trunks takes it for one that has not seen the images of the trunk."""
    text = (ROOT / "zoo/fashion_mnist/evaluator_second_half" / SECOND_HALF).read_text()
    assert text.startswith(OF_SECOND_HALF) and len(text.split()[-1]) == 64


def test_the_hash_of_a_split_ignores_its_shards() -> None:
    images = torch.randint(256, (130, 1, 4, 4), dtype=torch.uint8)
    hashes = {
        images_sha256(x) for x in (images, images.clone(), images[:129], images.flip(0), images.reshape(130, 1, 2, 8))
    }  # type: ignore[arg-type]
    assert len(hashes) == 4


def test_a_trunk_marks_the_judges_of_text_to_image_of_its_family_or_weights(tmp_path: Path) -> None:
    judges = {name: JudgeFacts(sha256=f"hash of {name}", processor="") for name in JUDGES}
    clip = TrunkFacts(name="clip:folder", family="clip", sha256="another")
    assert seen(tmp_path, clip, judges=judges) == {"clip_vit_b_32", "pick_score", "hps"}
    same = TrunkFacts(name="timm:owner/name", family="resnet", sha256="hash of vqa")
    assert seen(tmp_path, same, judges=judges) == OF_IMAGENET | {"vqa"}


def test_without_trunks_nothing_is_marked(tmp_path: Path) -> None:
    assert read_facts(tmp_path) == [] and seen(tmp_path) == set()


def test_facts_name_family_and_weights_of_loaded_trunks() -> None:
    own, lite = describe({"own": small_trunk(), FROZEN: small_trunk()}, "split")
    assert (
        (own.name, own.sha256, own.split, lite.split) == ("own", "", "split", "")
        and lite.family == "efficientnet"
        and len(lite.sha256) == 64
    )


def test_the_ratio_shows_the_marks_and_the_mean_of_the_unmarked() -> None:
    fd = {"classifier": 0.9, "efficientnet_lite0": 0.5}
    assert str(Ratio(fd=fd, interval={})) == "classifier 0.900, efficientnet_lite0 0.500"
    marked = Ratio(fd=fd, interval={}, seen={"efficientnet_lite0": "why"}, unseen=0.9)
    assert str(marked) == "classifier 0.900, efficientnet_lite0 0.500 (seen in training), unmarked 0.900"
    all_marked = Ratio(fd=fd, interval={}, seen={"efficientnet_lite0": "why"}, selects=["classifier"])
    assert str(all_marked) == "classifier 0.900 (selects), efficientnet_lite0 0.500 (seen in training), unmarked none"
    assert all_marked.marks() == {"classifier": "selects", "efficientnet_lite0": "seen in training: why"}
    both = Ratio(fd=fd, interval={}, seen={"classifier": "why"}, selects=["classifier"], unseen=0.5)
    assert both.mark("classifier") == " (seen in training, selects)" and both.mark("efficientnet_lite0") == ""
    judge = Ratio(fd=fd, interval={}, seen={"hps": "why"})  # a judge of text to image, which has no FD
    assert judge.marks() == {"hps": "seen in training: why"} and judge.mark("hps") == " (seen in training)"
    plain = Ratio(fd=fd, interval={}).model_dump()
    assert "seen" not in plain and "selects" not in plain  # older files stay as they are


def student_of(
    names: tuple[str, ...], folder: Path, *trunks: TrunkFacts, classes: bool = True, measured: bool = True
) -> Ratio:
    """The ratio of a student with FD 1, 2, ... over a teacher with FD 10 by each extractor.

    classes: whether the data have classes. measured: whether the student has measures of classes.
    """
    write_facts(trunks, folder)
    teacher = generator_measures(dict.fromkeys(names, 10.0))
    student = generator_measures({k: 1.0 + i for i, k in enumerate(names)})
    student = student if measured else student.model_copy(update={"classes": {}})
    names_of_scores = (*(m.name for m in Scores.measures()), "nearest", "classes")
    scores = [Scores(**{k: v for k, v in student.model_dump().items() if k in names_of_scores})] * 2
    metrics = run_metrics(student, dict.fromkeys(names, 1.0), teachers={"ddim_50": teacher})
    metrics.fd_replicates = {"ddim_50": {k: [9.0, 11.0] for k in names}}
    baseline = Baseline(**{key: value for key, value in dict(metrics).items() if key in Baseline.model_fields})
    return add_student(baseline, student, scores, folder, folder, classes).ratio


def test_judges_that_pick_the_generator_are_marked_and_left_out_of_the_mean(tmp_path: Path) -> None:
    names = ("classifier", "evaluator", "efficientnet_lite0", "clip_vit_b_32")
    ratio = student_of(names, tmp_path)
    assert set(ratio.selects) == {"classifier", "evaluator"} and ratio.unseen == pytest.approx((0.3 + 0.4) / 2)
    ratio = student_of(names, tmp_path, TrunkFacts(name="efficientnet_lite1", family="efficientnet", sha256="x"))
    assert set(ratio.seen) == {"efficientnet_lite0"} and ratio.unseen == pytest.approx(0.4)
    assert student_of(names[:2], tmp_path).unseen is None
    without = student_of(names, tmp_path, classes=False, measured=False)
    assert without.selects == ["evaluator"] and without.unseen == pytest.approx((0.1 + 0.3 + 0.4) / 3)


def test_a_student_without_measures_of_classes_is_still_selected_by_the_classifier(tmp_path: Path) -> None:
    """A student without conditions has none, and neither has one with too few images of each class."""
    ratio = student_of(("classifier", "evaluator"), tmp_path, measured=False)
    assert ratio.selects == ["classifier", "evaluator"] and ratio.unseen is None
