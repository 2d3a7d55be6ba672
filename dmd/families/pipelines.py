"""Diffusers pipeline folders: which network one holds, what goes with it, and how one is written."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DiffusionPipeline,
    DiTTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.utils.logging import disable_progress_bar
from safetensors import SafetensorError

from dmd.errors import TeacherError

disable_progress_bar()  # of loading a pipeline: a tenth of a second, in between the stage's own lines

KNOWN = (
    "UNet2DModel, DiTTransformer2DModel with a VAE, UNet2DConditionModel with a VAE and one or two CLIP text encoders"
)
NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(folder: Path) -> Any:
    """Load a pipeline folder by diffusers' own loader, all of it in float32, whatever it was stored in: text encoders
    would stay in theirs. Raises TeacherError where that fails.
    """
    if not (folder / "model_index.json").is_file():
        raise TeacherError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        index = json.loads((folder / "model_index.json").read_text())
        without = {name: None for name in NOT_NEEDED if name in index}
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **without)
    except (OSError, ValueError, SafetensorError, RuntimeError, AttributeError, KeyError, TypeError) as e:
        raise TeacherError(f"{folder} could not be loaded: {' '.join(str(e).split())[:300]}") from e
    network_of(pipe, folder)
    return pipe


def network_of(pipe: Any, folder: Path) -> Any:
    """The diffusion network of a pipeline. Raises TeacherError for a kind that is not known, or of another use."""
    net = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    text = isinstance(net, UNet2DConditionModel) and getattr(pipe, "text_encoder", None) is not None
    latent = text or isinstance(net, DiTTransformer2DModel)
    if not isinstance(net, UNet2DModel) and not (latent and getattr(pipe, "vae", None) is not None):
        raise TeacherError(f"{folder} holds a {type(pipe).__name__}; supported are pipelines with a {KNOWN}")
    if why := _unfit(pipe, net):
        raise TeacherError(f"{folder} cannot be used: its {type(net).__name__} {why}")
    return net


def _unfit(pipe: Any, net: Any) -> str:
    """Why a network of a known kind cannot be used: its images are to come from noise alone. Empty if it can."""
    takes, makes = net.config["in_channels"], net.config["out_channels"]
    if isinstance(net, UNet2DModel):
        if any(getattr(pipe, name, None) is not None for name in ("vae", "vqvae")):
            return "works on latents of a VAE; one on pixels is supported"
    elif takes != (of_vae := pipe.vae.config.latent_channels):
        return f"takes {takes} channels, its VAE's latents have {of_vae}; inpainting and editing are not supported"
    if makes != takes and not isinstance(net, DiTTransformer2DModel):
        return f"makes {makes} channels of {takes}; a learned variance is supported in a DiTTransformer2DModel alone"
    return ""
