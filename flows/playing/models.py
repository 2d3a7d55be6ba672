"""A student and its teacher, which draw images of the same labels or prompts from the same seed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from dmd.config import load_params
from dmd.errors import TeacherError, UserError
from dmd.families.pipelines import load_pipeline
from dmd.generator.generator import About, Generator, load_generator, read_about
from dmd.generator.pictures import image_grid
from dmd.samplers.sampler import Sampler
from dmd.teachers.teacher import Teacher, load_teacher, new_teacher

TEACHER = Path("artifacts/teacher")
MAX_IMAGES = 64  # in one picture
BATCH = 16  # images at once
MAX_SEED = 2**63 - 1
MAX_PROMPT = 2000  # characters

Shape = tuple[int, int, int]  # (C, H, W)
Make = Callable[[tuple[str, ...], int], Sampler]  # prompts (none for labels), steps -> sampler


@dataclass(frozen=True)
class Drawing:
    """A picture with a row for each label or prompt, and what it has cost: network passes per image, and seconds."""

    picture: Image.Image
    passes: int
    seconds: float


@dataclass(frozen=True)
class Pair:
    """A student and, if there is one, its teacher.

    classes: names of the labels; empty for prompts and for images without labels. prompts: examples; empty for labels.
    student_steps, teacher_steps: the most steps that each can take. teacher is None if there is none.
    """

    student: Make
    teacher: Make | None
    classes: tuple[str, ...]
    prompts: tuple[str, ...]
    student_steps: int
    teacher_steps: int

    def draw(self, words: Sequence[str], seed: int, images: int, student: int, teacher: int) -> list[Drawing]:
        """Draw `images` images for each label or prompt: the student's picture, then the teacher's.

        student, teacher: their numbers of steps. Text is embedded before the clock starts. Raises UserError for a value
        that is not allowed.
        """
        rows, texts = self._read(words)
        if not 1 <= images * len(rows) <= MAX_IMAGES:
            raise UserError(f"images: {len(rows)} rows of {images} are not allowed; draw 1 to {MAX_IMAGES} in all")
        if not 0 <= seed <= MAX_SEED:
            raise UserError(f"seed: {seed} is not allowed; it must be from 0 to {MAX_SEED}")
        labels = torch.tensor(rows).repeat_interleave(images)
        makers = [("student", self.student, student, self.student_steps)]
        if self.teacher:
            makers.append(("teacher", self.teacher, teacher, self.teacher_steps))
        for name, _, steps, most in makers:
            if not 1 <= steps <= most:
                raise UserError(f"steps of the {name}: {steps} are not allowed; it takes 1 to {most}")
        return [_draw(make(texts, steps), labels, seed, images) for _, make, steps, _ in makers]

    def _read(self, words: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
        """Return the conditions of the rows, and the prompts that they are indices of."""
        chosen = [word.strip() for word in words if word.strip()]
        if self.prompts:
            if not chosen:
                raise UserError("prompts: there is none; write one in each line")
            if long := [text for text in chosen if len(text) > MAX_PROMPT]:
                raise UserError(f"prompts: one has {len(long[0]):,} characters; use at most {MAX_PROMPT:,}")
            return list(range(len(chosen))), tuple(chosen)
        if not self.classes:
            return [0], ()
        if not chosen:
            raise UserError("labels: none is chosen; choose one or more")
        if wrong := [
            word for word in chosen if not (word.isascii() and word.isdigit() and int(word) < len(self.classes))
        ]:
            raise UserError(f"labels: {wrong[0]!r} is none of 0..{len(self.classes) - 1}")
        return [int(word) for word in chosen], ()


def find_teacher(root: Path, folder: Path | None, scale: float | None) -> tuple[Path | None, float]:
    """Return the teacher's folder and guidance scale: those given, or else those of the project in `root`.

    The folder is None if none is given and the project has none. Raises UserError for a scale below 1.
    """
    if scale is not None and not scale >= 1:
        raise UserError(f"--guidance: {scale:g} is not allowed; it must be 1 (no guidance) or more")
    if folder is None and (root / TEACHER / "model_index.json").is_file():
        folder = TEACHER
    if scale is None:
        file = root / "params.yaml"
        scale = load_params(file).guidance.scale if file.is_file() else 1.0
    return folder, scale


def load_pair(generator: Path, teacher: Path | None, scale: float, device: torch.device) -> Pair:
    """Load both networks, and draw an image with each, so that a broken one fails here.

    Raises TeacherError if a folder cannot be used, or if the teacher's images or conditions are not the student's.
    """
    about = read_about(generator)
    captions = tuple(about.captions)
    if captions:
        shape, classes, student = _load_reader(generator, about, captions[:1], device)
    else:
        shape, classes, student = _load_labelled(generator, device)
    make_teacher, most = None, 0
    if teacher is not None:
        net = load_teacher(teacher, device, scale, captions[:1])
        kinds = (bool(net.captions), bool(net.conditions))
        if net.shape != shape or kinds != (bool(captions), bool(captions or classes)):
            raise TeacherError(f"{teacher} is not the teacher of {generator}: it takes other shapes or conditions")
        make_teacher, most = _teacher_maker(net, teacher, scale, device), net.denoiser.process.timesteps
    pair = Pair(student, make_teacher, classes, captions, len(about.timesteps), most)
    pair.draw(captions[:1] or ["0"], 0, 1, pair.student_steps, 1)
    return pair


def _load_labelled(folder: Path, device: torch.device) -> tuple[Shape, tuple[str, ...], Make]:
    """Return the shape of the network's input, the names of its labels, and its samplers."""
    whole = load_generator(folder, device)
    return whole.shape, whole.classes, lambda _texts, steps: _shorten(whole, steps).sampler()


def _load_reader(
    folder: Path, about: About, texts: tuple[str, ...], device: torch.device
) -> tuple[Shape, tuple[str, ...], Make]:
    """Return the same as `_load_labelled` for a generator that reads text.

    The captions are embedded for each drawing: `load_generator` would embed every caption of the training.
    """
    pipe = load_pipeline(folder)

    @lru_cache(maxsize=1)
    def read(texts: tuple[str, ...]) -> Generator:
        net = about.with_levels(new_teacher(pipe, folder, device, captions=texts), folder)
        return Generator(net.denoiser, tuple(about.timesteps), net.shape, texts, net.codec, about.between)

    return read(texts).shape, (), lambda texts, steps: _shorten(read(texts), steps).sampler()


def _teacher_maker(net: Teacher, folder: Path, scale: float, device: torch.device) -> Make:
    """Return the function that makes a teacher's sampler; it embeds the last prompts only once."""

    @lru_cache(maxsize=1)
    def read(texts: tuple[str, ...]) -> Teacher:
        return new_teacher(net.pipeline, folder, device, scale, texts) if texts else net

    return lambda texts, steps: read(texts).sampler(f"ddim_{steps}")


def _shorten(generator: Generator, steps: int) -> Generator:
    """Return the generator with its first `steps` steps."""
    return replace(generator, times=generator.times[:steps])


def _draw(sampler: Sampler, labels: torch.Tensor, seed: int, columns: int) -> Drawing:
    """Draw an image for each of `labels` [N], N / columns rows of `columns` images."""
    start = time.perf_counter()
    pixels = sampler.draw(labels, seed, BATCH)  # the result is on the CPU, so a GPU has finished its work
    seconds = time.perf_counter() - start
    picture = image_grid(pixels.reshape(-1, columns, *pixels.shape[1:]).numpy())
    return Drawing(picture, sampler.nfe, seconds)
