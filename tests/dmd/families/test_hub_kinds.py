"""Pipelines of the hub that are supported as teachers, and those that are not."""

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, LDMPipeline, StableDiffusionPipeline, UNet2DModel, VQModel
from torch import nn

from dmd.errors import TeacherError
from dmd.families.pipelines import find_family, load_pipeline
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.hub_folders import KINDS, load, save_in_float16, text_unet

# Parts of a pipeline that runs without its VAE and text encoder.
NO_TEXT: dict[str, Any] = {
    "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(), "vae": None, "text_encoder": None, "tokenizer": None,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_in_float16_is_loaded_in_float32(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """With a text encoder in float16, the stock pipeline could not run the generator."""
    pipe = load_pipeline(save_in_float16(folders[kind], tmp_path / "half"))
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert {p.dtype for part in parts.values() for p in part.parameters()} == {torch.float32}, parts.keys()


def pixel_unet(**more: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **more,
    )  # fmt: skip


def load_error(folder: Path) -> str:
    """Text of the error that loading a folder raises, which must be one line."""
    with pytest.raises(TeacherError) as e:
        load_pipeline(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_unet_on_latents_without_text_is_an_error(tmp_path: Path) -> None:
    vqvae: Any = VQModel(
        in_channels=3,
        out_channels=3,
        latent_channels=3,
        block_out_channels=(8,),
        norm_num_groups=4,
        num_vq_embeddings=8,
    )
    scheduler: Any = DDPMScheduler()
    LDMPipeline(vqvae, pixel_unet(in_channels=3, out_channels=3), scheduler).save_pretrained(tmp_path)
    assert "its UNet2DModel works on latents of a VAE; only a UNet2DModel on pixels is supported" in load_error(
        tmp_path
    )


def test_a_unet_with_a_learned_variance_is_an_error(tmp_path: Path) -> None:
    DDPMPipeline(pixel_unet(in_channels=3, out_channels=6), DDPMScheduler()).save_pretrained(tmp_path)
    assert "makes 6 channels of 3; a learned variance" in load_error(tmp_path)


def test_a_network_for_inpainting_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    """The input of such a network also holds the masked image and the mask."""
    pipe = StableDiffusionPipeline.from_pretrained(folders["sd"], unet=text_unet(16, in_channels=9))
    pipe.save_pretrained(tmp_path)
    assert "takes 9 channels, its VAE's latents have 4; inpainting and editing" in load_error(tmp_path)


@pytest.mark.parametrize(("name", "message"), [("NoSuchPipeline", "NoSuchPipeline"), (None, "could not be loaded")])
def test_an_unknown_pipeline_is_an_error(
    folders: dict[str, Path], tmp_path: Path, name: str | None, message: str
) -> None:
    shutil.copytree(folders["ddpm"], tmp_path / "x")
    index = json.loads((tmp_path / "x/model_index.json").read_text())
    index.pop("_class_name") if name is None else index.update({"_class_name": name})
    (tmp_path / "x/model_index.json").write_text(json.dumps(index))
    assert message in load_error(tmp_path / "x")


def video() -> Any:
    net = diffusers.WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=8,
        num_layers=1, rope_max_seq_len=8,
    )  # fmt: skip
    return diffusers.WanPipeline(**NO_TEXT, transformer=net)


def test_video_is_an_error(tmp_path: Path) -> None:
    """No family has its network; the error names the pipeline and those that are supported."""
    with pytest.raises(TeacherError, match=r"holds a WanPipeline; supported are pipelines with"):
        find_family(video(), tmp_path)


def test_the_conditioning_of_sdxl_equals_its_pipelines(folders: dict[str, Path]) -> None:
    """Embeddings, pooled embeddings and zeros for the null condition equal encode_prompt's; time ids hold sizes."""
    net = load(folders["sdxl"]).denoiser.net
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["sdxl"])
    embedding, none, pooled, none_pooled = pipe.encode_prompt(CAPTIONS[3], device=CPU)
    index = torch.tensor([3, 10])
    torch.testing.assert_close(net.embeddings(index)[0], embedding[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(net.pooled(index)[0], pooled[0], rtol=0, atol=1e-6)
    assert torch.equal(net.embeddings(index)[1], none[0]) and torch.equal(net.pooled(index)[1], none_pooled[0])
    ids = pipe._get_add_time_ids((8, 8), (0, 0), (8, 8), torch.float32, pooled.shape[1])
    assert torch.equal(net.time_ids[None], ids)


def test_a_refiner_is_an_error(folders: dict[str, Path], tmp_path: Path) -> None:
    """A refiner has only the second text encoder, and does not start from pure noise."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(folders["sdxl"], text_encoder=None, tokenizer=None)
    pipe.save_pretrained(tmp_path / "refiner")
    with pytest.raises(TeacherError, match=r"holds a StableDiffusionXLPipeline; supported are"):
        load(tmp_path / "refiner")
