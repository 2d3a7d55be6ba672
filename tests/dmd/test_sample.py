"""`python -m dmd.sample` reads labels as numbers or names, and writes a grid or a folder of images."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from dmd.data.splits import DIGIT_NAMES
from dmd.generator.drawing import draw_folder, draw_grid, read_labels
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator
from dmd.sample import main
from dmd.samplers.sampler import Sampler
from dmd.teachers.teacher import Teacher
from tests.helpers.teachers.generators import generator_folder
from tests.helpers.teachers.hub_folders import hub_folder, load, perturb_trainable


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["dmd.sample", *map(str, arguments)])
    main()


def test_labels_are_read_as_numbers_or_names() -> None:
    classes = ("zero", "one", "two")
    assert read_labels("2, one,0", classes) == [2, 1, 0] and read_labels("", classes) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'3' is none of 0\.\.2 or zero, one, two"):
        read_labels("0,3", classes)
    with pytest.raises(ValueError, match="takes no labels"):
        read_labels("0", ())


def test_a_grid_has_a_column_per_label(teacher: Teacher, tmp_path: Path) -> None:
    generator = generator_folder(teacher, tmp_path / "generator")
    picture = torch.from_numpy(np.array(draw_grid(generator, [3, 5, 8], 2, 4, 2, 64)))
    images = generator.sampler().images(torch.tensor([3, 3, 5, 5, 8, 8]), torch.Generator().manual_seed(4))
    assert picture.shape == (2 * 8 * 2, 3 * 8 * 2)
    assert torch.equal(picture[16:32:2, 16:32:2], images[3, 0])  # row 2, column 2: the second image of label 5


def test_a_folder_holds_the_images_of_the_grid_with_their_labels(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "generator", tmp_path / "out"
    generator = generator_folder(teacher, source)
    same = ["--generator", source, "--labels", "3,5", "--images", 2, "--seed", 4, "--device", "cpu"]
    run(monkeypatch, *same, "--out", out)
    assert f"{out}: 4 images, seed 4" in capsys.readouterr().out
    table = pd.read_csv(out / "labels.csv", dtype=str)
    assert table["file"].tolist() == ["0.png", "1.png", "2.png", "3.png"]
    assert table["label"].tolist() == [generator.classes[i] for i in (3, 3, 5, 5)]
    picture = np.array(draw_grid(generator, [3, 5], 2, 4, 1, 64))
    assert np.array_equal(np.array(Image.open(out / "1.png")), picture[8:16, :8])
    with pytest.raises(SystemExit, match=r"--out: .* exists; name a new folder"):
        run(monkeypatch, *same, "--out", out)


def test_a_folder_is_written_in_batches(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, sizes, images = generator_folder(teacher, tmp_path / "generator"), [], Sampler.images_of

    def count(sampler: Sampler, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(labels))
        return images(sampler, z, labels)

    monkeypatch.setattr(Sampler, "images_of", count)
    draw_folder(generator, [1], 10, 0, 1, 4, tmp_path / "out")
    assert sizes == [4, 4, 2] and len(list((tmp_path / "out").glob("*.png"))) == 10


def test_prompts_are_the_conditions_of_a_generator_that_reads_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption of the training gives the image of its label, and any other text gives another image."""
    teacher = load(hub_folder("sd", tmp_path / "teacher"))
    net = perturb_trainable(teacher.denoiser.copy().requires_grad_())
    generator = Generator(net, (999,), teacher.shape, DIGIT_NAMES, teacher.codec)
    export_generator(generator, teacher, tmp_path / "generator")
    same = ["--generator", tmp_path / "generator", "--seed", 4, "--scale", 1, "--device", "cpu"]
    run(monkeypatch, *same, "--prompt", teacher.captions[3], "--prompt", "a red cat", "--out", tmp_path / "texts.png")
    run(monkeypatch, *same, "--labels", "3,0", "--out", tmp_path / "labels.png")
    texts, labels = (np.array(Image.open(tmp_path / f"{name}.png")) for name in ("texts", "labels"))
    side = texts.shape[0]
    assert np.array_equal(texts[:, :side], labels[:, :side])
    assert not np.array_equal(texts[:, side:], labels[:, side:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--prompt", "a", "--labels", "0"), "--prompt and --labels cannot be used together"),
        (("--prompt", " "), "--prompt: a text is empty"),
        (("--prompt", "a"), "this generator reads no prompts; give labels"),
    ],
)
def test_a_prompt_that_has_no_use_is_refused(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    generator_folder(teacher, tmp_path / "generator")
    with pytest.raises(SystemExit, match=words):
        run(monkeypatch, "--generator", tmp_path / "generator", "--out", tmp_path / "grid.png", *arguments)


@pytest.mark.parametrize("arguments", [("--images", 0), ("--batch-size", 0), ("--scale", 0), ("--seed", -1)])
def test_numbers_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, int]) -> None:
    with pytest.raises(SystemExit, match="must be at least"):
        run(monkeypatch, "--generator", "missing", "--out", "grid.png", *arguments)


def test_a_missing_generator_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="error: missing is not a generator folder"):
        run(monkeypatch, "--generator", "missing", "--out", "grid.png")


def test_weights_in_bf16_make_nearly_the_same_picture(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator_folder(teacher, tmp_path / "generator")
    same = ["--generator", tmp_path / "generator", "--images", 2, "--device", "cpu"]
    for precision in ("fp32", "bf16"):
        run(monkeypatch, *same, "--precision", precision, "--out", tmp_path / f"{precision}.png")
    exact, close = (np.array(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("fp32", "bf16"))
    assert 0 < np.abs(exact - close).mean() < 3
    with pytest.raises(SystemExit, match=r"--precision: onnx takes weights in float32 alone"):
        run(monkeypatch, *same, "--precision", "bf16", "--engine", "onnx", "--out", tmp_path / "onnx.png")
