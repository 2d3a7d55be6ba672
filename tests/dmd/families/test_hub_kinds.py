"""Teachers in the hub's own format that are taken as they come, and those that cannot be."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, LDMPipeline, StableDiffusionPipeline, UNet2DModel, VQModel
from torch import nn

from dmd.errors import TeacherError
from dmd.families.pipelines import load_pipeline
from tests.helpers.hub_folders import KINDS, half, hub_folder, text_unet


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    return {kind: hub_folder(kind, root / kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_in_float16_is_worked_with_in_float32(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    """A text encoder left in float16 would give a generator that its own stock pipeline cannot run."""
    pipe = load_pipeline(half(folders[kind], tmp_path / "half"))
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    assert {p.dtype for part in parts.values() for p in part.parameters()} == {torch.float32}, parts.keys()


def pixel_unet(**more: Any) -> UNet2DModel:
    return UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, **more,
    )  # fmt: skip


def refused(folder: Path) -> str:
    with pytest.raises(TeacherError) as e:
        load_pipeline(folder)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_a_unet_on_latents_without_text_is_refused(tmp_path: Path) -> None:
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
    assert "its UNet2DModel works on latents of a VAE; one on pixels is supported" in refused(tmp_path)


def test_a_learned_variance_of_a_unet_is_refused(tmp_path: Path) -> None:
    DDPMPipeline(pixel_unet(in_channels=3, out_channels=6), DDPMScheduler()).save_pretrained(tmp_path)
    assert "makes 6 channels of 3; a learned variance" in refused(tmp_path)


def test_a_network_for_inpainting_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """It takes the image to paint in and its mask beside the noised latents."""
    pipe = StableDiffusionPipeline.from_pretrained(folders["sd"], unet=text_unet(16, in_channels=9))
    pipe.save_pretrained(tmp_path)
    assert "takes 9 channels, its VAE's latents have 4; inpainting and editing" in refused(tmp_path)


@pytest.mark.parametrize(("name", "said"), [("NoSuchPipeline", "NoSuchPipeline"), (None, "could not be loaded")])
def test_a_pipeline_of_another_name_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str | None, said: str
) -> None:
    shutil.copytree(folders["ddpm"], tmp_path / "x")
    index = json.loads((tmp_path / "x/model_index.json").read_text())
    index.pop("_class_name") if name is None else index.update({"_class_name": name})
    (tmp_path / "x/model_index.json").write_text(json.dumps(index))
    assert said in refused(tmp_path / "x")
