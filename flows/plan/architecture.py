"""A teacher's network by its configuration alone: on the meta device it has shapes and no memory."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from huggingface_hub import try_to_load_from_cache

from dmd.codecs.latents import Latents
from dmd.codecs.pixels import PIXELS
from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES
from dmd.diffusion.denoiser import PARAMETRISATIONS, Denoiser, Guided
from dmd.diffusion.networks import Transformer, unwrap
from dmd.diffusion.process import ddpm_process
from dmd.errors import UserError
from dmd.families.text_to_image import Captioned, CaptionedXL
from dmd.teacher_training.architectures import new_network
from dmd.teachers.teacher import Teacher

CLASSES = {"digits": 10, "mnist": 10, "fashion_mnist": 10, "cifar10": 10}
TOKENS = 77  # of CLIP's text encoders

SD_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
}
# As published in their repositories, what differs from diffusers' defaults: so that the presets' teachers need no
# download to be estimated. A copy in the local cache comes first.
PUBLISHED: dict[str, dict[str, Any]] = {
    "google/ddpm-cifar10-32": {
        "net": {
            "_class_name": "UNet2DModel",
            "sample_size": 32,
            "block_out_channels": (128, 256, 256, 256),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
        }
    },
    "edm-imagenet-64x64-cond-adm.pkl": {  # as dmd.edm.networks makes it: it lies on no hub
        "net": {
            "_class_name": "UNet2DModel",
            "sample_size": 64,
            "block_out_channels": (192, 384, 576, 768),
            "layers_per_block": 3,
            "down_block_types": ("ResnetDownsampleBlock2D", *("AttnDownBlock2D",) * 3),
            "up_block_types": (*("AttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            "downsample_type": "resnet",
            "upsample_type": "resnet",
            "resnet_time_scale_shift": "scale_shift",
            "attention_head_dim": 64,
            "attn_norm_num_groups": 32,
            "num_class_embeds": 1001,
        }
    },
    "stable-diffusion-v1-5/stable-diffusion-v1-5": {
        "net": {"_class_name": "UNet2DConditionModel", "sample_size": 64, "cross_attention_dim": 768},
        "vae": SD_VAE,
    },
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "net": {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 128,
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": SD_VAE,
    },
}
NETWORKS: dict[str, Any] = {
    "UNet2DModel": UNet2DModel,
    "DiTTransformer2DModel": DiTTransformer2DModel,
    "UNet2DConditionModel": UNet2DConditionModel,
}


class Unknown(UserError):
    """There is no configuration at hand to tell the teacher's size from."""


def blank_teacher(params: Params, root: Path, device: torch.device, classes: int | None = None) -> Teacher:
    """The teacher with weights of no meaning; its schedule and parametrisation are stand-ins, which cost the same.

    classes: of the data, where they are known. Raises Unknown, with the reason.
    """
    known = classes if classes is not None else CLASSES.get(params.data.source, 0)
    with torch.device(device), torch.random.fork_rng(devices=[]):
        net, vae = _new(params, known) if params.teacher.source == "train" else _described(params, root, known)
        process = ddpm_process(torch.linspace(0.999, 0.001, params.teacher.timesteps))
        denoiser = Denoiser(net, process, PARAMETRISATIONS["sample"]).eval().requires_grad_(False).to(device)
        codec = PIXELS if vae is None else Latents(vae.eval().requires_grad_(False))
    inner, conditions = unwrap(net), _conditions(net, known)
    size = inner.config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    guided = conditions and params.guidance.scale != 1
    real = Guided(denoiser, params.guidance.scale, conditions - 1) if guided else denoiser
    shape = (inner.config["in_channels"], height, width)
    return Teacher(denoiser, real, SimpleNamespace(), shape, conditions, codec)


def _conditions(net: Any, classes: int) -> int:
    """What it can be told, the null condition included; 0 for nothing."""
    if isinstance(net, Captioned):
        return classes + 1
    if isinstance(net, Transformer):
        return unwrap(net).config["num_embeds_ada_norm"] + 1
    return net.config["num_class_embeds"] or 0


def _new(params: Params, classes: int) -> tuple[Any, Any]:
    """As stage `teacher` makes it; a VAE, or None."""
    names = (*DIGIT_NAMES, *(str(i) for i in range(len(DIGIT_NAMES), classes)))[:classes]
    shape = (params.data.channels, params.data.size, params.data.size)
    captions = tuple(params.data.caption.format(name=name) for name in names)
    split: Any = SimpleNamespace(shape=shape, class_names=names, class_captions=captions)
    net, parts = new_network(params.teacher, split)
    if params.teacher.network == "text_unet":
        tokens = max(len(caption.encode()) for caption in captions) + 2
        net = Captioned(unwrap(net), torch.zeros(classes + 1, tokens, params.teacher.text.hidden_size))
    return net, getattr(parts, "vae", None)


def _described(params: Params, root: Path, classes: int) -> tuple[Any, Any]:
    """By the configuration files of a folder or the local cache, or by what is published."""
    config = _config(params, root)
    kind = config["net"].get("_class_name")
    if kind not in NETWORKS:
        raise Unknown(f"its network is a {kind}")
    net = NETWORKS[kind].from_config(config["net"])
    if kind == "UNet2DModel":
        return net, None
    vae: Any = AutoencoderKL.from_config(config.get("vae", SD_VAE))
    return (Transformer(net) if kind == "DiTTransformer2DModel" else _captioned(net, classes)), vae


def _captioned(unet: UNet2DConditionModel, classes: int) -> Captioned:
    config: Any = unet.config
    embeddings = torch.zeros(classes + 1, TOKENS, config["cross_attention_dim"])
    if config["addition_embed_type"] != "text_time":
        return Captioned(unet, embeddings)
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    side = config["sample_size"] * 8
    return CaptionedXL(unet, embeddings, torch.zeros(classes + 1, pooled), (side, side))


def _config(params: Params, root: Path) -> dict[str, Any]:
    cfg = params.teacher
    if cfg.source == "folder":
        return _of_folder(root / cfg.folder)
    index = try_to_load_from_cache(cfg.hub_id, "model_index.json", revision=cfg.revision)
    if isinstance(index, str):
        return _of_folder(Path(index).parent)
    if cfg.hub_id in PUBLISHED:
        return PUBLISHED[cfg.hub_id]
    raise Unknown(f"{cfg.hub_id} has not been downloaded")


def _of_folder(folder: Path) -> dict[str, Any]:
    """The json files of a diffusers pipeline folder; its weights are not touched."""
    found: dict[str, Any] = {}
    for name, key in (("unet", "net"), ("transformer", "net"), ("vae", "vae")):
        file = folder / name / "config.json"
        if file.is_file():
            found[key] = json.loads(file.read_text())
    flat = folder / "config.json"  # a pipeline of one network may lie in a single folder
    if not found and flat.is_file() and (config := json.loads(flat.read_text())).get("_class_name") in NETWORKS:
        found["net"] = config
    if "net" not in found:
        raise Unknown(f"{folder} holds no unet/config.json or transformer/config.json")
    return found
