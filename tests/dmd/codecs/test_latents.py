"""The VAE codec of latents, and teachers on latents with labels or captions."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dmd.codecs import latents as codecs
from dmd.codecs.latents import Latents, vae_batch_size
from dmd.config import Params
from dmd.diffusion.denoiser import Guided
from dmd.errors import TeacherError
from dmd.teachers.check import check_fits
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS, reals
from tests.helpers.teachers.latent_teachers import latent_teacher, teacher_folder, tiny_params


@pytest.fixture(params=["dit", "text_unet"])
def teacher(request: pytest.FixtureRequest, params: Params, tmp_path: Path) -> Teacher:
    return latent_teacher(params, request.param, tmp_path / "teacher")


def test_the_latents_have_unit_standard_deviation_and_decode_to_images(teacher: Teacher) -> None:
    assert isinstance(teacher.codec, Latents) and teacher.shape == (4, 4, 4)
    x = teacher.codec.encode(reals().x)
    assert x.shape == (40, 4, 4, 4) and x.std().item() == pytest.approx(1.0, rel=1e-4)
    vae = teacher.codec.vae
    assert torch.equal(teacher.codec.decode(x), vae.decode(x / vae.config.scaling_factor).sample)
    check_fits(teacher, (1, 8, 8), 10)
    if not teacher.captions:
        with pytest.raises(TeacherError, match="the data have 11"):  # the last label of a DiT is always the null label
            check_fits(teacher, (1, 8, 8), 11)
    with pytest.raises(TeacherError, match="images of shape"):
        check_fits(teacher, (1, 16, 16), 10)


@pytest.mark.parametrize(("side", "count"), [(8, 256), (64, 256), (128, 64), (512, 4), (1024, 1), (4096, 1)])
def test_larger_images_pass_the_vae_in_smaller_batches(side: int, count: int) -> None:
    assert vae_batch_size(side, side) == count


def test_latents_are_decoded_in_batches_by_the_size_of_their_images(
    teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec: Any = teacher.codec
    sizes: list[int] = []
    x = codec.encode(torch.rand(7, 1, 8, 8))
    whole = codec.decode(x)
    monkeypatch.setattr(codecs, "PIXELS_AT_ONCE", 4 * 8 * 8)
    for name in ("encoder", "decoder"):
        getattr(codec.vae, name).register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    torch.testing.assert_close(codec.decode(x), whole, rtol=1e-4, atol=1e-5)
    codec.encode(whole)
    assert sizes == 2 * [4, 3]


def test_the_output_depends_on_the_condition_and_the_last_one_is_null(teacher: Teacher) -> None:
    """The eleven conditions are ten classes or captions, and the null condition of guidance."""
    assert teacher.conditions == 11
    z, t = torch.randn(1, 4, 4, 4).repeat(3, 1, 1, 1), torch.full((3,), 500)
    a, b, none = teacher.denoiser(z, t, torch.tensor([0, 1, 10]))
    assert not torch.allclose(a, b) and not torch.allclose(a, none)
    guided = Guided(teacher.denoiser, 3.0, teacher.conditions - 1)(z, t, torch.tensor([0, 1, 2]))[0]
    torch.testing.assert_close(guided, none + 3 * (a - none), rtol=1e-4, atol=1e-4)


def test_the_embedding_of_a_caption_equals_stable_diffusions(params: Params, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    folder = teacher_folder(tiny_params(params, "text_unet"), tmp_path / "teacher")
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    want, none = pipe.encode_prompt(CAPTIONS[3], CPU, 1, True, negative_prompt="")
    got = load_teacher(folder, CPU, captions=CAPTIONS).denoiser.net.embeddings(torch.arange(11))
    torch.testing.assert_close(got[3], want[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[10], none[0], rtol=0, atol=1e-6)


def test_a_teacher_on_text_without_captions_is_an_error(params: Params, tmp_path: Path) -> None:
    folder = teacher_folder(tiny_params(params, "text_unet"), tmp_path / "teacher")
    with pytest.raises(TeacherError, match="conditioned on text"):
        load_teacher(folder, CPU)
