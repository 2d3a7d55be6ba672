"""A UNet on pixels, unconditional or with class labels: DDPM and its relatives."""

from collections.abc import Sequence

from diffusers import DiffusionPipeline, UNet2DModel
from torch import nn

from dmd.families.family import Family, part
from dmd.families.tables import Tables


class PixelUnet(Family):
    """A pipeline with a UNet2DModel and nothing else. The last of its class embeddings may be the null label."""

    parts = "a UNet2DModel"
    on_latents = False

    def has_parts(self, pipe: DiffusionPipeline) -> bool:
        return isinstance(part(pipe, "unet"), UNet2DModel)

    def network(self, pipe: DiffusionPipeline) -> UNet2DModel:
        return pipe.unet

    def find_fault(self, pipe: DiffusionPipeline) -> str:
        if part(pipe, "vae") is not None or part(pipe, "vqvae") is not None:
            return "works on latents of a VAE; only a UNet2DModel on pixels is supported"
        return super().find_fault(pipe)

    def wrap(self, pipe: DiffusionPipeline, texts: Tables) -> nn.Module:
        return pipe.unet  # it needs no wrapper: its call is the one that dmd/networks/wrapper.py defines

    def count_conditions(self, pipe: DiffusionPipeline, captions: Sequence[str]) -> int:
        return pipe.unet.config["num_class_embeds"] or 0
