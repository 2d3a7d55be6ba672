"""The parts that all families of text transformers on latents share.

A family is a declaration: the classes of its network and pipeline, how the pipeline encodes captions, and how the
network is called. Latents, conditions and predictions have the same layout and sign in all families.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmd.data.sequences import Padded
from dmd.errors import ConfigError
from dmd.families.family import Family, part
from dmd.families.tables import Embedded, Tables, new_table
from dmd.networks.wrapper import TransformerWrapper

Texts = Mapping[str, Any]  # rows of each table for a batch: Tensor [B, ...] or Padded


class TextTransformer(TransformerWrapper):
    """A text transformer that looks up the embeddings of its captions, which are computed once."""

    def __init__(self, transformer: ModelMixin, family: "TextTransformerFamily", texts: Tables) -> None:
        """texts: each table with a row for each caption and, last, for the empty caption."""
        super().__init__()
        self.transformer = transformer
        self.family = family
        self.block_lists, self.lora_targets = family.block_lists, family.lora_targets
        self.tables = nn.ModuleDict({name: new_table(rows) for name, rows in texts.items()})

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor, guidance: float = 1.0) -> SimpleNamespace:
        """Predict [B, C, H, W] for x [B, C, H, W]; guidance: the input of networks that embed the scale."""
        texts = {name: table(class_labels) for name, table in self.tables.items()}
        return SimpleNamespace(sample=self.family.predict(self.transformer, x, time, texts, guidance))

    def image_tokens(self, output: Any) -> Tensor:
        return self.family.image_tokens(output)


class TextTransformerFamily(Family):
    """A pipeline with a text transformer, a VAE and text encoders. Subclasses declare one kind of it."""

    network_class: ClassVar[type[ModelMixin]]
    pipeline_class: ClassVar[type[DiffusionPipeline]]
    block_lists: tuple[str, ...] = ("transformer_blocks",)  # as in TransformerWrapper
    lora_targets: tuple[str, ...] = ()  # as in TransformerWrapper
    mixes_tokens: bool = False  # blocks hold image and text in one sequence, which a discriminator cannot read
    packs_input: bool = False  # the pipeline's `latents` are tokens, as `pack` makes them
    packs_steps: bool = False  # its `latents` are not tokens, but its scheduler gets tokens [B, H W, C]
    on_latents = True
    takes_captions = True
    captions_at_once = 32  # T5's attention to 512 tokens takes 64 MiB per caption and layer in float32, several times

    def __init_subclass__(cls) -> None:
        """Name the parts of the declared pipeline, for messages."""
        super().__init_subclass__()
        cls.parts = f"a {cls.network_class.__name__}, a VAE and the text encoders of {cls.pipeline_class.__name__}"

    @abstractmethod
    def encode(self, pipe: Any, captions: list[str], device: torch.device) -> Mapping[str, Embedded]:
        """Return the tables' rows for captions, as the pipeline's own `encode_prompt` computes them."""

    @abstractmethod
    def predict(self, net: Any, x: Tensor, time: Tensor, texts: Texts, guidance: float) -> Tensor:
        """Return the network's prediction [B, C, H, W] for x [B, C, H, W] and time [B], as the scheduler defines both.

        A flow's prediction is eps - x0 at time 1000 sigma.
        """

    @abstractmethod
    def text_shapes(self, config: Any) -> dict[str, tuple[int, ...]]:
        """Return the shape of a row of each table by the network's config, for the longest caption."""

    def image_tokens(self, output: Any) -> Tensor:
        """Return the image's tokens [B, N, C] from the output of a block in the first of block_lists.

        Raises ConfigError if blocks hold image and text in one sequence.
        """
        if self.mixes_tokens:
            raise ConfigError(
                f"method.gan.trunks: critic and teacher cannot read a {self.network_class.__name__}, whose blocks hold "
                "image and text in one sequence; use image, or a network for images"
            )
        return output[1] if isinstance(output, tuple) else output  # joint attention returns the text's beside them

    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        return isinstance(pipe, self.pipeline_class) and part(pipe, "vae") is not None

    def network(self, pipe: DiffusionPipeline) -> ModelMixin:
        return pipe.transformer

    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> TextTransformer:
        return TextTransformer(pipe.transformer, self, texts)

    def count_conditions(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> int:
        return len(captions) + 1

    @torch.no_grad()
    def embed(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> Mapping[str, Embedded]:
        encoders = self.text_encoders(pipe)
        return self.encode(pipe, list(captions), encoders[0].device)

    def embed_empty(self, pipe: DiffusionPipeline) -> Mapping[str, Embedded]:
        return self.embed(pipe, [""])

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        return [p for name, p in pipe.components.items() if name.startswith("tokenizer") and p is not None]

    def text_encoders(self, pipe: DiffusionPipeline) -> list[PreTrainedModel]:
        return [p for name, p in pipe.components.items() if name.startswith("text_encoder") and p is not None]

    def patch_size(self, pipe: DiffusionPipeline) -> int:
        """Return the side of a token in latents."""
        return self.packing if self.packing > 1 else pipe.transformer.config["patch_size"]

    def count_tokens(self, pipe: DiffusionPipeline, shape: tuple[int, int, int]) -> int:
        """Return the number of image tokens of an input [C, H, W]."""
        side = self.patch_size(pipe)
        return (shape[1] // side) * (shape[2] // side)

    def flow_mu(self, pipe: Any, shape: tuple[int, int, int]) -> float | None:
        """Return mu, which is linear in the number of image tokens (Esser et al. 2024)."""
        cfg = pipe.scheduler.config
        if not cfg.get("use_dynamic_shifting"):
            return None
        slope = (cfg.max_shift - cfg.base_shift) / (cfg.max_image_seq_len - cfg.base_image_seq_len)
        return cfg.base_shift + slope * (self.count_tokens(pipe, shape) - cfg.base_image_seq_len)

    def pipeline_arguments(self, pipe: DiffusionPipeline, shape: tuple[int, int, int]) -> dict[str, Any]:
        height, width = (side * pipe.vae_scale_factor for side in shape[1:])
        return {"height": height, "width": width, "guidance_scale": 1.0}


# Layers of joint attention beside those of the image: the text's queries, keys, values and feed-forward.
JOINT_ATTENTION = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
JOINT_TARGETS = (*JOINT_ATTENTION, "ff_context.net.0.proj", "ff_context.net.2")


def padded(texts: Texts, name: str) -> Padded:
    """Return the sequences of a table with their mask."""
    rows = texts[name]
    return rows if isinstance(rows, Padded) else Padded(rows, rows.new_ones(rows.shape[:2], dtype=torch.bool))


def pack(x: Tensor) -> Tensor:
    """Turn latents [B, C, H, W] into the tokens [B, H/2 W/2, 4 C] of FLUX.1 and its relatives."""
    blocks = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [B, C, H/2, 2, W/2, 2]
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Turn tokens [B, H/2 W/2, 4 C] into latents [B, C, H, W], the inverse of `pack`."""
    blocks = tokens.unflatten(2, (-1, 2, 2)).unflatten(1, (height // 2, width // 2))  # [B, H/2, W/2, C, 2, 2]
    return blocks.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
