"""The pair of the playground draws what the student's and the teacher's own samplers draw."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dmd.config import Params
from dmd.errors import TeacherError, UserError
from dmd.generator.generator import load_generator
from dmd.generator.pictures import image_grid
from dmd.samplers.sampler import Sampler
from dmd.teachers.teacher import Teacher, load_teacher
from flows.playing.models import Pair, find_teacher, load_pair
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.generators import generator_folder
from tests.helpers.teachers.latent_teachers import export, latent_teacher


def expected(sampler: Sampler, labels: list[int], images: int, seed: int) -> np.ndarray:
    """The picture with a row for each label, as an array."""
    pixels = sampler.draw(torch.tensor(labels).repeat_interleave(images), seed)
    return np.asarray(image_grid(pixels.reshape(len(labels), images, *pixels.shape[1:]).numpy()))


@pytest.fixture
def pair(teacher: Teacher, teacher_folder: Path, tmp_path: Path) -> Pair:
    """A student of two steps beside its teacher."""
    generator_folder(teacher, tmp_path / "generator", 999, 499)
    return load_pair(tmp_path / "generator", teacher_folder, 1.0, CPU)


def test_labels_seed_and_steps_reach_both_samplers(pair: Pair, teacher: Teacher, tmp_path: Path) -> None:
    generator = load_generator(tmp_path / "generator")
    for steps in (1, 2):
        student, beside = pair.draw(["7", "3"], seed=5, images=2, student=steps, teacher=3)
        short = replace(generator, times=generator.times[:steps])
        assert (np.asarray(student.picture) == expected(short.sampler(), [7, 3], 2, 5)).all()
        assert student.passes == steps and student.seconds > 0
    assert (np.asarray(beside.picture) == expected(teacher.sampler("ddim_3"), [7, 3], 2, 5)).all()
    assert beside.passes == 3 and beside.picture.size == student.picture.size


def test_a_teacher_is_guided_by_the_scale(params: Params, tmp_path: Path) -> None:
    teacher = latent_teacher(params, "dit", tmp_path / "teacher")
    export(teacher, tmp_path / "generator", 999)
    guided = load_pair(tmp_path / "generator", tmp_path / "teacher", 5.0, CPU).draw(["7"], 0, 1, 1, 2)[1]
    sampler = load_teacher(tmp_path / "teacher", CPU, 5.0).sampler("ddim_2")
    assert (np.asarray(guided.picture) == expected(sampler, [7], 1, 0)).all()
    assert (np.asarray(guided.picture) != expected(teacher.sampler("ddim_2"), [7], 1, 0)).any()


def test_without_a_teacher_the_student_draws_alone(teacher: Teacher, tmp_path: Path) -> None:
    generator_folder(teacher, tmp_path / "generator")
    pair = load_pair(tmp_path / "generator", None, 1.0, CPU)
    assert pair.teacher is None and len(pair.draw(["1"], 0, 1, 1, 0)) == 1


def test_prompts_are_embedded_when_they_are_drawn(params: Params, tmp_path: Path) -> None:
    """A prompt of the training gives its label's image, and a new one is read as it is written."""
    teacher = latent_teacher(params, "text_unet", tmp_path / "teacher")
    export(teacher, tmp_path / "generator", 999)
    pair = load_pair(tmp_path / "generator", tmp_path / "teacher", 1.0, CPU)
    assert pair.prompts == tuple(CAPTIONS) and pair.classes == ()
    student, beside = pair.draw([CAPTIONS[4], CAPTIONS[2]], 1, 1, 1, 2)
    whole = load_generator(tmp_path / "generator")
    assert (np.asarray(student.picture) == expected(whole.sampler(), [4, 2], 1, 1)).all()
    assert (np.asarray(beside.picture) == expected(teacher.sampler("ddim_2"), [4, 2], 1, 1)).all()
    other = pair.draw([CAPTIONS[4], "a circle"], 1, 1, 1, 2)[0]
    height = other.picture.height // 2
    same = np.asarray(other.picture) == np.asarray(student.picture)
    assert same[: height - 2].all() and not same[height + 2 :].all()


@pytest.mark.parametrize(
    ("words", "values", "message"),
    [
        ([], {}, "labels: none is chosen"),
        (["10"], {}, "labels: '10' is none of 0..9"),
        (["-1"], {}, "labels: '-1' is none of 0..9"),
        (["1"], {"seed": -1}, "seed: -1 is not allowed"),
        (["1"], {"images": 65}, "images: 1 rows of 65"),
        (["1"], {"images": 0}, "images: 1 rows of 0"),
        (["1"], {"student": 3}, "steps of the student: 3 are not allowed; it takes 1 to 2"),
        (["1"], {"teacher": 1001}, "steps of the teacher: 1001 are not allowed; it takes 1 to 1000"),
    ],
)
def test_a_wrong_value_is_one_line(pair: Pair, words: list[str], values: dict[str, int], message: str) -> None:
    defaults = {"seed": 0, "images": 1, "student": 1, "teacher": 1}
    with pytest.raises(UserError, match=message) as error:
        pair.draw(words, **{**defaults, **values})
    assert "\n" not in str(error.value)


def test_another_teacher_is_refused_when_it_is_loaded(teacher: Teacher, params: Params, tmp_path: Path) -> None:
    generator_folder(teacher, tmp_path / "generator")
    latent_teacher(params, "dit", tmp_path / "other")
    with pytest.raises(TeacherError, match="other shapes or conditions"):
        load_pair(tmp_path / "generator", tmp_path / "other", 1.0, CPU)
    (tmp_path / "generator/generator.json").write_text("[]")
    with pytest.raises(TeacherError, match=r"generator\.json: the whole file: Input should be a valid dictionary"):
        load_pair(tmp_path / "generator", None, 1.0, CPU)


def test_the_teacher_and_its_guidance_are_those_of_the_project(tmp_path: Path, params: Params) -> None:
    assert find_teacher(tmp_path, None, None) == (None, 1.0)
    (tmp_path / "artifacts/teacher").mkdir(parents=True)
    (tmp_path / "artifacts/teacher/model_index.json").write_text("{}")
    assert find_teacher(tmp_path, None, 4.0) == (Path("artifacts/teacher"), 4.0)
    assert find_teacher(tmp_path, Path("mine"), None) == (Path("mine"), 1.0)
    with pytest.raises(UserError, match="--guidance: nan"):
        find_teacher(tmp_path, None, float("nan"))
