"""A frozen network that only samples is loaded with weights in bfloat16, and its images stay near those of float32."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dmd.config import Precision
from dmd.data.splits import DIGIT_NAMES
from dmd.encoding.encoded import Encoded
from dmd.errors import TeacherError
from dmd.families.family import embed_all
from dmd.families.pipelines import find_family, load_pipeline
from dmd.families.tables import StoredTexts
from dmd.generator.export import export_generator
from dmd.generator.generator import Generator, load_generator
from dmd.networks.half import HALVED, halve
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.hub_folders import KINDS, save_in_float16

BF16 = torch.bfloat16


def tensors(teacher: Teacher) -> dict[str, Tensor]:
    """The weights and buffers of a teacher's network and of its VAE."""
    net = teacher.denoiser.net
    found = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    vae = getattr(teacher.pipeline, "vae", None)
    return found | ({} if vae is None else {f"vae.{name}": value for name, value in vae.named_parameters()})


def assert_same(got: Teacher, want: Teacher) -> None:
    left, right = tensors(got), tensors(want)
    assert left.keys() == right.keys()
    for name, value in right.items():
        assert left[name].dtype == value.dtype and torch.equal(left[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_is_loaded_as_if_it_had_been_halved(folders: dict[str, Path], kind: str) -> None:
    scale = 1.0 if kind == "ddpm" else 2.0
    whole, half = (load_teacher(folders[kind], CPU, scale, CAPTIONS, precision=p) for p in ("fp32", "bf16"))
    assert {value.dtype for value in whole.denoiser.parameters()} == {torch.float32}
    layers = [module for module in half.denoiser.modules() if isinstance(module, HALVED)]
    assert layers and all(p.dtype == BF16 for layer in layers for p in layer.parameters())
    z, y = torch.randn(4, *whole.shape, generator=torch.Generator().manual_seed(0)), torch.arange(4)
    cond = y if whole.conditions else None
    exact, close = (teacher.sampler("ddim_3").sample(z, cond) for teacher in (whole, half))
    assert close.dtype == torch.float32 and close.isfinite().all()
    assert 0 < (close - exact).std() < 0.1 * exact.std()
    halve(whole.denoiser)
    assert_same(half, whole)


@pytest.mark.parametrize("kind", ["sd", "sd3"])
def test_norms_keep_the_values_of_their_file(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """A folder in float16 holds values that bfloat16 does not have."""
    folder = save_in_float16(folders[kind], tmp_path / "fp16")
    whole, half = (load_teacher(folder, CPU, captions=CAPTIONS, precision=p) for p in ("fp32", "bf16"))
    halve(whole.denoiser)
    assert_same(half, whole)
    kept = [v for v in half.denoiser.net.parameters() if v.dtype == torch.float32]
    assert any(not torch.equal(v, v.to(BF16).float()) for v in kept)


def test_a_missing_weight_is_named_in_bf16_too(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = save_in_float16(folders["sd3"], tmp_path / "damaged")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != name}, file)
    with pytest.raises(TeacherError, match=f"has no weight {name}"):
        load_teacher(folder, CPU, captions=CAPTIONS, precision="bf16")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_generator_with_stored_embeddings_needs_no_text_encoder(
    folders: dict[str, Path], tmp_path: Path, precision: Precision
) -> None:
    """Its images are those of a generator that computes the embeddings."""
    teacher = load_teacher(folders["sd3"], CPU, captions=CAPTIONS)
    out = tmp_path / "generator"
    export_generator(Generator(teacher.denoiser, (999,), teacher.shape, DIGIT_NAMES, teacher.codec), teacher, out)
    pipe = load_pipeline(folders["sd3"])
    stored = StoredTexts(CAPTIONS, embed_all(find_family(pipe, folders["sd3"]), pipe, CAPTIONS))
    whole = load_generator(out, CPU, precision=precision)
    for file in out.glob("text_encoder*/*.safetensors"):
        file.unlink()
    light = load_generator(out, CPU, stored=stored, precision=precision)
    assert any(p.dtype == BF16 for p in light.denoiser.parameters()) == (precision == "bf16")
    z, y = torch.randn(3, *whole.shape), torch.tensor([3, 0, 9])
    assert torch.equal(light.sampler().sample(z, y), whole.sampler().sample(z, y))
    with pytest.raises(TeacherError, match="holds no weights"):
        load_generator(out, CPU, stored=StoredTexts(CAPTIONS[:9], stored.tables))


def test_embeddings_belong_to_their_captions_alone() -> None:
    stored = Encoded(None, {}, ("a", "b"), 1).stored
    assert stored.of(["a", "b"]) == {} and stored.of(["a"]) is None and stored.of(["b", "a"]) is None
