"""A transformer on latents that is conditioned on labels (DiT, Peebles and Xie 2022)."""

from types import SimpleNamespace

from diffusers import DiTTransformer2DModel
from torch import Tensor

from dmd.networks.wrapper import TransformerWrapper


class DitWrapper(TransformerWrapper):
    """A DiTTransformer2DModel whose predicted variance, if there is one, is dropped."""

    def __init__(self, transformer: DiTTransformer2DModel) -> None:
        super().__init__()
        # In training mode diffusers drops labels by the global random generator; here the trainer drops them.
        self.transformer = transformer.eval()

    def forward(self, x: Tensor, time: Tensor, class_labels: Tensor) -> SimpleNamespace:
        sample = self.transformer(x, time, class_labels).sample
        return SimpleNamespace(sample=sample[:, : x.shape[1]])
