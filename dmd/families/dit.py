"""A transformer on latents with class labels: DiT (Peebles and Xie 2022)."""

from collections.abc import Sequence

from diffusers import DiffusionPipeline, DiTTransformer2DModel

from dmd.families.family import Family, part
from dmd.families.tables import Tables
from dmd.networks.dit import DitWrapper


class Dit(Family):
    """A pipeline with a DiTTransformer2DModel and a VAE. The network always has a null label beside its classes."""

    parts = "a DiTTransformer2DModel and a VAE"
    on_latents = True
    learned_variance = True

    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        return isinstance(part(pipe, "transformer"), DiTTransformer2DModel) and part(pipe, "vae") is not None

    def network(self, pipe: DiffusionPipeline) -> DiTTransformer2DModel:
        return pipe.transformer

    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> DitWrapper:
        return DitWrapper(pipe.transformer)

    def count_conditions(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> int:
        return pipe.transformer.config["num_embeds_ada_norm"] + 1
