"""Untrained teachers: small networks of diffusers with their schedules, VAEs and text encoders."""

import tempfile
from math import gcd
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

from dmd.config import TeacherConfig
from dmd.data.splits import Split
from dmd.errors import TeacherError
from dmd.networks.dit import DitWrapper
from dmd.teacher_training.sana import TrainableSana, new_sana
from dmd.teacher_training.text_unet import TrainableTextUnet
from dmd.teacher_training.vae import latent_size
from dmd.training.tokenizer import tokenize

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

HEAD = 16  # channels of an attention head
Scheduler = DDPMScheduler | EDMEulerScheduler | FlowMatchEulerDiscreteScheduler


def new_scheduler(cfg: TeacherConfig) -> Scheduler:
    """Return the noise schedule of a teacher."""
    if cfg.prediction_type == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=cfg.timesteps)
    if cfg.prediction_type == "edm":
        return EDMEulerScheduler(num_train_timesteps=cfg.timesteps)
    return DDPMScheduler(
        num_train_timesteps=cfg.timesteps,
        beta_schedule=cfg.beta_schedule,
        prediction_type=cfg.prediction_type,
        clip_sample=False,
    )


def new_network(cfg: TeacherConfig, split: Split) -> tuple[nn.Module, Any]:
    """Return an untrained network, wrapped if its call differs, and the other parts of its pipeline.

    The parts are attributes vae, text_encoder and tokenizer, or a whole pipeline; None for a network on pixels. Raises
    TeacherError if the network does not fit the data.
    """
    classes = len(split.class_names)
    if cfg.network == "unet":
        return new_unet(cfg, split.shape, classes), None
    if cfg.network == "dit" and not classes:
        raise TeacherError(
            "teacher.network: 'dit' needs data with classes, but these have captions; use text_unet or sana"
        )
    if cfg.network == "sana":
        pipe = new_sana(cfg, split.shape)
        return TrainableSana(pipe, split.class_captions), pipe
    size = latent_size(cfg, split.shape)
    vae = new_vae(cfg, split.shape)
    if cfg.network == "dit":
        return DitWrapper(new_dit(cfg, size, classes)), SimpleNamespace(vae=vae)
    tokenizer, text_encoder = new_text_encoder(cfg, split.class_captions)
    tokens = tokenize(tokenizer, [*split.class_captions, ""])
    net = TrainableTextUnet(new_text_unet(cfg, size), text_encoder, tokens)
    return net, SimpleNamespace(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)


def new_unet(cfg: TeacherConfig, shape: tuple[int, int, int], classes: int) -> UNet2DModel:
    """Return a UNet2DModel for images [C, H, W], `classes` labels and a null label; its inner level has attention."""
    depth = len(cfg.channels)
    if shape[1] % 2 ** (depth - 1) or shape[2] % 2 ** (depth - 1):
        raise TeacherError(
            f"teacher.channels: {depth} levels halve the image {depth - 1} times, which {shape[1]}x{shape[2]} does not "
            "allow; use fewer levels, or another data.size"
        )
    return UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=cfg.layers_per_block,
        block_out_channels=tuple(cfg.channels),
        down_block_types=("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
        norm_num_groups=gcd(8, *cfg.channels),
        num_class_embeds=classes + 1 if classes else None,
    )


def new_text_unet(cfg: TeacherConfig, size: int) -> UNet2DConditionModel:
    """Return a UNet2DConditionModel on latents of side `size`; only the inner level attends to the caption."""
    depth = len(cfg.channels)
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=cfg.vae.latent_channels,
        out_channels=cfg.vae.latent_channels,
        layers_per_block=cfg.layers_per_block,
        block_out_channels=tuple(cfg.channels),
        down_block_types=("DownBlock2D",) * (depth - 1) + ("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
        norm_num_groups=gcd(8, *cfg.channels),
        cross_attention_dim=cfg.text.hidden_size,
        attention_head_dim=8,
    )


def new_dit(cfg: TeacherConfig, size: int, classes: int) -> DiTTransformer2DModel:
    """Return a DiT on latents of side `size`, with one token per latent pixel; it has a null label of its own."""
    return DiTTransformer2DModel(
        num_attention_heads=cfg.dit.width // HEAD,
        attention_head_dim=HEAD,
        in_channels=cfg.vae.latent_channels,
        out_channels=cfg.vae.latent_channels,  # the stock pipeline needs it
        num_layers=cfg.dit.layers,
        sample_size=size,
        patch_size=1,
        num_embeds_ada_norm=classes,
    )


def new_vae(cfg: TeacherConfig, shape: tuple[int, int, int]) -> AutoencoderKL:
    """Return an AutoencoderKL for images [C, H, W]; every level after the first halves them."""
    levels = len(cfg.vae.channels)
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(cfg.vae.channels),
    }
    return AutoencoderKL(
        in_channels=shape[0],
        out_channels=shape[0],
        **blocks,
        latent_channels=cfg.vae.latent_channels,
        norm_num_groups=gcd(8, *cfg.vae.channels),
        sample_size=shape[1],
    )


def new_text_encoder(cfg: TeacherConfig, captions: tuple[str, ...]) -> "tuple[CLIPTokenizer, CLIPTextModel]":
    """Return a byte-level tokenizer that has room for the longest caption, and a small CLIPTextModel."""
    from transformers import (
        CLIPTextConfig,
        CLIPTextModel,
    )  # the import takes two seconds, and only a text_unet needs it

    from dmd.training.tokenizer import new_tokenizer

    longest = max(len(caption.encode()) for caption in captions) + 2  # with the start and end tokens
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = new_tokenizer(Path(folder), longest)
    ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=cfg.text.hidden_size,
        intermediate_size=4 * cfg.text.hidden_size,
        num_hidden_layers=cfg.text.layers,
        num_attention_heads=cfg.text.hidden_size // HEAD,
        max_position_embeddings=longest,
        **ids,
    )
    return tokenizer, CLIPTextModel(config)
