"""Completes what the configs of a fetched teacher leave open, from the data and from its other parts."""

from diffusers import DiffusionPipeline

from dmd.codecs.layouts import layout_of
from dmd.families.family import Family


def complete(pipe: DiffusionPipeline, family: Family, size: int) -> None:
    """Set what is open in the configs of the parts, so that it is written with them.

    An open sample_size becomes that of the data, whose images have `size` pixels on a side. An open number of output
    channels is that of the input channels, as diffusers takes it. A tokenizer takes at most the tokens that its text
    encoder has positions for.
    """
    net = family.network(pipe)
    if net.config.get(family.size_key) is None:
        factor = layout_of(pipe.vae).downscaling(pipe.vae.config) if family.on_latents else 1
        net.register_to_config(**{family.size_key: size // factor})
    if net.config.get("out_channels", 0) is None:
        net.register_to_config(out_channels=net.config["in_channels"])
    for tokenizer, encoder in zip(family.tokenizers(pipe), family.text_encoders(pipe), strict=True):
        if (positions := getattr(encoder.config, "max_position_embeddings", None)) is not None:
            tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
