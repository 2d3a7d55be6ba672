"""The contract of a family: everything that one kind of diffusers pipeline needs to serve as a teacher.

To add a family, write a subclass in a file of its own and list it in FAMILIES (dmd/families/__init__.py). A transformer
that reads text is a short subclass of `TextTransformerFamily` (dmd/families/transformers/base.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dmd.codecs.layouts import layout_of
from dmd.data.sequences import concatenate
from dmd.families import tables
from dmd.families.parts import part_folder
from dmd.families.tables import Embedded, Tables


class Family(ABC):
    """One kind of pipeline: which parts it has, how its network is called, and how captions become embeddings."""

    parts: str  # the parts of its pipelines, for messages
    on_latents: bool  # the network works on latents of the pipeline's VAE, not on pixels
    takes_captions: bool = False  # conditions are captions, not class labels
    learned_variance: bool = False  # the network may predict a variance beside its target
    packing: int = 1  # side of the square of latent pixels that become one, with packing^2 times the channels
    size_key: str = "sample_size"  # the key of the network's config that holds the size of its input
    embeds_guidance: bool = False  # the network may take the guidance scale as an input
    captions_at_once: int = 256  # captions in a batch of the text encoders

    @abstractmethod
    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        """Whether the pipeline has the parts of this family."""

    @abstractmethod
    def network(self, pipe: DiffusionPipeline) -> ModelMixin:
        """Return the diffusion network of a pipeline of this family."""

    @abstractmethod
    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> nn.Module:
        """Return the network with the call that dmd/networks/wrapper.py defines; texts: embeddings of its captions."""

    @abstractmethod
    def count_conditions(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> int:
        """Return the number of conditions, the null condition included; 0 for an unconditional network."""

    def embed(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> Mapping[str, Embedded]:
        """Return each table with a row for each caption, float32 on the CPU; empty if captions are not used."""
        return {}

    def embed_empty(self, pipe: DiffusionPipeline) -> Mapping[str, Embedded]:
        """Return the row of each table for the empty caption; empty if captions are not used."""
        return {}

    def tokenizers(self, pipe: DiffusionPipeline) -> list[PreTrainedTokenizerBase]:
        """Return the tokenizers that `embed` runs, in the order of `text_encoders`."""
        return []

    def text_encoders(self, pipe: DiffusionPipeline) -> list[PreTrainedModel]:
        """Return the networks that `embed` runs."""
        return []

    def is_guided_by_input(self, pipe: DiffusionPipeline) -> bool:
        """Whether the network takes the guidance scale as an input, in place of a second pass without the caption."""
        return self.embeds_guidance and bool(self.network(pipe).config["guidance_embeds"])

    def rescale(self, guided: Tensor, cond: Tensor) -> Tensor:
        """Return the guided output as the pipeline rescales it. cond: the output with the condition alone."""
        return guided

    def flow_mu(self, pipe: DiffusionPipeline, shape: tuple[int, int, int]) -> float | None:
        """Return mu, by which the pipeline shifts a flow's schedule for an input [C, H, W]; None if it does not."""
        return None

    def pipeline_arguments(self, pipe: DiffusionPipeline, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Return what the stock pipeline's call needs beside prompt and steps to run a generator on [C, H, W]."""
        return {"guidance_scale": 0}

    def folder_of(self, pipe: DiffusionPipeline, folder: Path) -> Path:
        """Return the folder of the network in the pipeline's folder."""
        name = next(name for name, part in pipe.components.items() if part is self.network(pipe))
        return part_folder(folder, name)

    def output_channels(self, config: Any) -> int:
        """Return the channels of the network's output, in the layout of its input."""
        return config.get("out_channels") or config["in_channels"]

    def find_fault(self, pipe: DiffusionPipeline) -> str:
        """Say why the network cannot make images from noise alone; empty if it can."""
        config = self.network(pipe).config
        inputs, outputs = config["in_channels"], self.output_channels(config)
        if self.on_latents:
            layout = layout_of(pipe.vae)
            if missing := [key for key in layout.keys if pipe.vae.config.get(key) is None]:
                return f"has a {type(pipe.vae).__name__} without {', '.join(missing)} in its config; use another VAE"
            if inputs != (channels := layout.channels(pipe.vae.config) * self.packing**2):
                return (
                    f"takes {inputs} channels, its VAE's latents have {channels}; "
                    "inpainting and editing are not supported"
                )
        if outputs not in ((inputs, 2 * inputs) if self.learned_variance else (inputs,)):
            known = f"{inputs} or {2 * inputs} are" if self.learned_variance else "a learned variance is not"
            return f"makes {outputs} channels of {inputs}; {known} supported in this network"
        return ""


def part(pipe: DiffusionPipeline, name: str) -> object:
    """Return a part of a pipeline, None if it has no such part."""
    return getattr(pipe, name, None)


@torch.no_grad()
def embed_all(family: Family, pipe: DiffusionPipeline, captions: Sequence[str]) -> Tables:
    """Return the tables: a row for each caption and, last, for the empty caption; computed on demand if too large."""
    empty, size = family.embed_empty(pipe), family.captions_at_once

    def embed(index: Sequence[int]) -> dict[str, Embedded]:
        texts = [captions[i] for i in index if i < len(captions)]
        parts = [family.embed(pipe, texts[i : i + size]) for i in range(0, len(texts), size)]
        last = [] if len(texts) == len(index) else [empty]
        return {name: concatenate([part[name] for part in (*parts, *last)]) for name in empty}

    if len(captions) * sum(row.nbytes for row in empty.values()) <= tables.MAX_BYTES_IN_MEMORY:
        return embed(range(len(captions) + 1))
    embed_once = lru_cache(maxsize=1)(torch.no_grad()(embed))  # a network looks up the same rows in each of its tables
    return {name: tables.ComputedRows(lambda index, name=name: embed_once(index)[name]) for name in empty}
