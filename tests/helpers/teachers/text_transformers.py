"""Small teachers in the hub's format whose network is a text transformer, with random weights.

The folders have the layout of published ones: the same parts, schedulers and keys of the configs, with small widths.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dmd.families.transformers.base import pack, unpack
from dmd.training.tokenizer import byte_alphabet, new_tokenizer
from tests.helpers.networks import lively

TOKENS, WIDTH = 40, 16
PACKED = ("flux", "flux2", "qwen_image")  # their schedulers get tokens
QWEN: dict[str, Any] = {
    "vocab_size": 257, "hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": 256, "pad_token_id": 256,
}  # fmt: skip


def stable_diffusion_3(folder: Path) -> None:
    """The layout of stable-diffusion-3.5-medium: two CLIP encoders with projections, and T5."""
    net = SD3Transformer2DModel(
        sample_size=4, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=2 * WIDTH, caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH, pos_embed_max_size=4, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    clip = clip_tokenizer(folder)
    pipe = StableDiffusion3Pipeline(
        transformer=lively(net), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.1),
        text_encoder=clip_encoder(CLIPTextModelWithProjection, projection_dim=WIDTH), tokenizer=clip,
        text_encoder_2=clip_encoder(CLIPTextModelWithProjection, projection_dim=WIDTH), tokenizer_2=clip,
        text_encoder_3=t5(2 * WIDTH), tokenizer_3=t5_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def flux(folder: Path) -> None:
    """The layout of FLUX.1-dev: CLIP's pooled text and T5's tokens, an embedded guidance scale, a dynamic shift."""
    net = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, axes_dims_rope=(2, 2, 4), guidance_embeds=True,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    pipe = FluxPipeline(
        transformer=lively(net), scheduler=scheduler, vae=kl(shift_factor=0.1),
        text_encoder=clip_encoder(CLIPTextModel), tokenizer=clip_tokenizer(folder),
        text_encoder_2=t5(WIDTH), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def flux2(folder: Path) -> None:
    """The layout of FLUX.2 klein: blocks of latents with the statistics of a batch norm, three layers of Qwen3."""
    net = Flux2Transformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=3 * WIDTH, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )  # fmt: skip
    vae = kl(kind=AutoencoderKLFlux2)
    vae.bn.running_mean.copy_(torch.linspace(-0.5, 0.5, 16))
    vae.bn.running_var.copy_(torch.linspace(0.5, 2.0, 16))
    text = Qwen3ForCausalLM(Qwen3Config(**{**QWEN, "num_hidden_layers": 27}, head_dim=8))
    pipe = Flux2KleinPipeline(
        transformer=lively(net), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae, text_encoder=lively(text), tokenizer=qwen_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def pixart(folder: Path) -> None:
    """The layout of PixArt-Sigma-XL-2: eps with a learned variance, T5 with a mask."""
    net = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=16, sample_size=4, caption_channels=WIDTH, use_additional_conditions=False,
    )  # fmt: skip
    pipe = PixArtSigmaPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(WIDTH), vae=kl(), transformer=lively(net),
        scheduler=DPMSolverMultistepScheduler(),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def sana(folder: Path) -> None:
    """The layout of Sana_600M: the deep-compression autoencoder, Gemma, a DPM solver with flow sigmas.

    Its images have 32 pixels on a side, because the pipeline refuses sizes that are no multiple of 32.
    """
    net = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=WIDTH,
        sample_size=4,
    )  # fmt: skip
    vae = AutoencoderDC(
        in_channels=1, latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8,) * 4,
        decoder_block_out_channels=(8,) * 4, encoder_layers_per_block=(1,) * 4, decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=((),) * 4, decoder_qkv_multiscales=((),) * 4, scaling_factor=0.5,
        upsample_block_type="interpolate", downsample_block_type="Conv",
    )  # fmt: skip
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, final_sigmas_type="zero"
    )
    pipe = SanaPipeline(
        tokenizer=gemma_tokenizer(), text_encoder=gemma(), vae=vae.eval(), transformer=lively(net), scheduler=scheduler
    )
    pipe.save_pretrained(folder)


def lumina2(folder: Path) -> None:
    """The layout of Lumina-Image-2.0; its pipeline expects a VAE that halves images three times."""
    net = Lumina2Transformer2DModel(
        sample_size=4, in_channels=4, hidden_size=16, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 2, 2), cap_feat_dim=WIDTH,
    )  # fmt: skip
    pipe = Lumina2Pipeline(
        transformer=lively(net), scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0), vae=kl(4, shift_factor=0.1),
        text_encoder=gemma(), tokenizer=gemma_tokenizer(),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def qwen_image(folder: Path) -> None:
    """The layout of Qwen-Image: a video VAE with statistics of each channel, a dynamic shift, Qwen2.5-VL."""
    net = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    net.register_to_config(_sample_size=4)  # as stage `teacher` completes it: neither network nor VAE has a size
    vae = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], input_channels=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.0, 2.0, 1.5],
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    text = {**QWEN, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": WIDTH}
    encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
    pipe = QwenImagePipeline(
        scheduler=scheduler, vae=vae.eval(), text_encoder=lively(encoder), tokenizer=qwen_tokenizer(),
        transformer=lively(net),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def z_image(folder: Path) -> None:
    """The layout of Z-Image: FLUX.1's VAE, Qwen3 with a chat template."""
    net = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
    )  # fmt: skip
    pipe = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=kl(shift_factor=0.1),
        text_encoder=lively(Qwen3Model(Qwen3Config(**QWEN, head_dim=8))), tokenizer=qwen_tokenizer(),
        transformer=lively(net),
    )  # fmt: skip
    pipe.save_pretrained(folder)


def aura_flow(folder: Path) -> None:
    """The layout of AuraFlow: one block of joint attention and one of a single stream, padding of captions is zero."""
    net = AuraFlowTransformer2DModel(
        sample_size=4, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=WIDTH, caption_projection_dim=16, pos_embed_max_size=16,
    )  # fmt: skip
    pipe = AuraFlowPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(WIDTH), vae=kl(), transformer=lively(net),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )  # fmt: skip
    pipe.save_pretrained(folder)


TRANSFORMERS = {
    "sd3": stable_diffusion_3,
    "flux": flux,
    "flux2": flux2,
    "pixart": pixart,
    "sana": sana,
    "lumina2": lumina2,
    "qwen_image": qwen_image,
    "z_image": z_image,
    "aura_flow": aura_flow,
}


def kl(levels: int = 2, kind: Any = AutoencoderKL, **more: Any) -> Any:
    """A VAE of images of one channel whose latents have four pixels on a side."""
    scale = {"scaling_factor": 0.5} if kind is AutoencoderKL else {}
    return kind(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(8,) * levels, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        sample_size=2 ** (levels + 1), **scale, **more,
    ).eval()  # fmt: skip


def clip_tokenizer(folder: Path) -> Any:
    return new_tokenizer(folder, TOKENS)


def clip_encoder(kind: Any, **more: Any) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=515, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=514, **more,
    )  # fmt: skip
    return lively(kind(config))


def t5(width: int) -> nn.Module:
    config = T5Config(
        vocab_size=130, d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return lively(T5EncoderModel(config))


def t5_tokenizer() -> T5Tokenizer:
    """A tokenizer with a piece for each character of ASCII."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *map(chr, range(33, 127))]
    return T5Tokenizer(vocab=[(piece, 0.0) for piece in pieces], extra_ids=0)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer with a token for each byte and a template for chats."""
    tokenizer = Qwen2Tokenizer(vocab={symbol: i for i, symbol in enumerate(byte_alphabet())}, merges=[])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{% endfor %}"
    return tokenizer


def gemma() -> nn.Module:
    config = Gemma2Config(
        vocab_size=130, hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0, bos_token_id=2, eos_token_id=1,
    )  # fmt: skip
    return lively(Gemma2Model(config))


def gemma_tokenizer() -> GemmaTokenizer:
    """A tokenizer with a piece for each character of ASCII."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, range(33, 127))]
    return GemmaTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], add_bos_token=True)


def to_tokens(kind: str, x: Tensor) -> Tensor:
    """Latents [B, C, H, W] as the pipeline's scheduler gets them."""
    if kind not in PACKED:
        return x
    return x.flatten(2).mT if kind == "flux2" else pack(x)


def from_tokens(kind: str, x: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `to_tokens`."""
    if kind not in PACKED:
        return x
    return x.mT.unflatten(2, (height, width)) if kind == "flux2" else unpack(x, height, width)
