"""A small Sana (Xie et al. 2024): linear attention on latents of a deep-compression autoencoder, text by Gemma."""

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor

from dmd.config import TeacherConfig
from dmd.errors import TeacherError
from dmd.networks.wrapper import TransformerWrapper
from dmd.teacher_training.vae import latent_size
from dmd.training.tokenizer import new_gemma_tokenizer

if TYPE_CHECKING:
    from transformers import Gemma2Model

HEAD = 16  # channels of an attention head
SIDES = 32  # pixels
CAPTIONS_AT_ONCE = 32
INSTRUCTION = signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default


class TrainableSana(TransformerWrapper):
    """A SanaTransformer2DModel that looks up the embeddings of its captions.

    As in the paper, the text encoder does not learn; here it keeps its random weights.
    """

    embeddings: Tensor
    mask: Tensor

    def __init__(self, pipe: SanaPipeline, captions: Sequence[str]) -> None:
        """captions: K texts, for the labels 0..K-1; label K is the empty caption."""
        super().__init__()
        self.transformer = pipe.transformer
        embeddings, mask = _embed(pipe, captions)
        self.register_buffer("embeddings", embeddings, persistent=False)  # [K + 1, L, width of the text]
        self.register_buffer("mask", mask, persistent=False)  # [K + 1, L], 1 for a token of the caption

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> Any:
        """Predict [B, C, H, W], as every network does (dmd/networks/wrapper.py)."""
        return self.transformer(
            x,
            encoder_hidden_states=self.embeddings[class_labels],
            encoder_attention_mask=self.mask[class_labels],
            timestep=time * self.transformer.config.timestep_scale,
        )


@torch.no_grad()
def _embed(pipe: SanaPipeline, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Embed captions and, last, the empty one, as the pipeline does; without the padding that all of them share."""
    texts = [captions[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(captions), CAPTIONS_AT_ONCE)]
    # The pipeline puts an instruction before each caption, but not before the empty one that guidance uses.
    calls = [*((list(part), INSTRUCTION) for part in texts), ([""], None)]
    rows = [
        pipe.encode_prompt(
            part, do_classifier_free_guidance=False, device=pipe.text_encoder.device, complex_human_instruction=words
        )[:2]
        for part, words in calls
    ]
    embeddings, mask = (torch.cat(parts) for parts in zip(*rows, strict=True))
    longest = int(mask.sum(dim=1).max())
    return embeddings[:, :longest], mask[:, :longest]


def new_sana(cfg: TeacherConfig, shape: tuple[int, int, int]) -> SanaPipeline:
    """Return an untrained pipeline without a scheduler for images [C, H, W].

    Raises TeacherError for images that the pipeline or the autoencoder cannot take.
    """
    if shape[1] % SIDES or shape[2] % SIDES:
        raise TeacherError(
            f"data.size: the pipeline of teacher.network: sana takes images whose sides are multiples of {SIDES}, not "
            f"{shape[1]}x{shape[2]}; change data.size"
        )
    return SanaPipeline(
        tokenizer=new_gemma_tokenizer(),
        text_encoder=_new_gemma(cfg),
        vae=_new_autoencoder(cfg, shape),
        transformer=_new_transformer(cfg, latent_size(cfg, shape)),
        scheduler=None,  # type: ignore[arg-type]  # save_pipeline adds it
    )


def _new_transformer(cfg: TeacherConfig, size: int) -> SanaTransformer2DModel:
    """Return a transformer with one token per latent pixel."""
    heads = cfg.dit.width // HEAD
    return SanaTransformer2DModel(
        in_channels=cfg.vae.latent_channels,
        out_channels=cfg.vae.latent_channels,
        num_attention_heads=heads,
        attention_head_dim=HEAD,
        num_layers=cfg.dit.layers,
        num_cross_attention_heads=heads,
        cross_attention_head_dim=HEAD,
        cross_attention_dim=cfg.dit.width,
        caption_channels=cfg.text.hidden_size,
        sample_size=size,
        qk_norm="rms_norm_across_heads",  # of Sana-Sprint and SANA-1.5
    )


def _new_autoencoder(cfg: TeacherConfig, shape: tuple[int, int, int]) -> AutoencoderDC:
    """Return an autoencoder of residual blocks; every level after the first halves the image."""
    levels, channels = len(cfg.vae.channels), tuple(cfg.vae.channels)
    return AutoencoderDC(
        in_channels=shape[0],
        latent_channels=cfg.vae.latent_channels,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1,) * levels,
        decoder_layers_per_block=(1,) * levels,
        encoder_qkv_multiscales=((),) * levels,
        decoder_qkv_multiscales=((),) * levels,
    )


def _new_gemma(cfg: TeacherConfig) -> "Gemma2Model":
    """Return a small Gemma2Model, whose random weights tell the bytes of a caption apart."""
    from transformers import Gemma2Config, Gemma2Model  # the import takes two seconds, and only sana needs it

    width = cfg.text.hidden_size
    tokenizer = new_gemma_tokenizer()
    ids: dict[str, Any] = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=cfg.text.layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // HEAD,
        head_dim=HEAD,
        initializer_range=width**-0.5,  # the default of 0.02 leaves tokens a sixth of what attention adds to them
        **ids,
    )
    return Gemma2Model(config)
