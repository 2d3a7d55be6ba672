"""Writes a diffusers pipeline folder: the network, its scheduler and the parts that go with it."""

import json
import shutil
from inspect import signature
from pathlib import Path
from typing import Any

from diffusers import (
    DDIMPipeline,
    DDPMPipeline,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

from dmd.storage.files import write_text


def save_pipeline(net: Any, scheduler: Any, folder: Path, like: Any = None) -> None:
    """Write a pipeline folder as diffusers does: safetensors and json.

    net is a network of diffusers; like holds the other parts as attributes: vae, text_encoder, tokenizer.
    """
    _pipeline(net, scheduler, like).save_pretrained(folder, safe_serialization=True)
    if isinstance(like, DiffusionPipeline) and like.name_or_path:  # none for a pipeline that was built here
        _copy_parts_on_disk(like, folder)
    for config in folder.rglob("*.json"):  # diffusers records the folder it loaded from, which differs between clones
        content = json.loads(config.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _copy_parts_on_disk(like: DiffusionPipeline, folder: Path) -> None:
    """Copy the text encoders that were left on disk when `like` was loaded."""
    source = Path(like.name_or_path)
    absent = [name for name, part in like.components.items() if part is None and name.startswith("text_encoder")]
    if not (absent := [name for name in absent if (source / name).is_dir()]):
        return
    there, here = (json.loads((root / "model_index.json").read_text()) for root in (source, folder))
    for name in absent:
        shutil.copytree(source / name, folder / name)
        here[name] = there[name]
    write_text(folder / "model_index.json", json.dumps(here, indent=2) + "\n")


def _pipeline(net: Any, scheduler: Any, like: Any) -> DiffusionPipeline:
    if isinstance(net, DiTTransformer2DModel):
        return DiTPipeline(transformer=net, vae=like.vae, scheduler=scheduler)
    if isinstance(net, UNet2DConditionModel) and hasattr(like, "text_encoder_2"):
        return StableDiffusionXLPipeline(
            unet=net,
            vae=like.vae,
            text_encoder=like.text_encoder,
            text_encoder_2=like.text_encoder_2,
            tokenizer=like.tokenizer,
            tokenizer_2=like.tokenizer_2,
            scheduler=scheduler,
            force_zeros_for_empty_prompt=like.config.force_zeros_for_empty_prompt,
            add_watermarker=False,
        )
    if isinstance(net, UNet2DConditionModel):
        return StableDiffusionPipeline(
            unet=net,
            vae=like.vae,
            text_encoder=like.text_encoder,
            tokenizer=like.tokenizer,
            scheduler=scheduler,
            safety_checker=None,  # type: ignore[arg-type]
            feature_extractor=None,  # type: ignore[arg-type]
            requires_safety_checker=False,
        )
    if getattr(like, "transformer", None) is not None:  # a text transformer, whose pipeline class takes all other parts
        names = signature(type(like).__init__).parameters
        options = {name: like.config[name] for name in names if name in like.config and name not in like.components}
        return type(like)(**options, **(like.components | {"transformer": net, "scheduler": scheduler}))
    # DDIMPipeline converts its scheduler to a DDIMScheduler; DDPMPipeline keeps an EDM or flow scheduler.
    pipeline = DDIMPipeline if hasattr(scheduler, "alphas_cumprod") else DDPMPipeline
    return pipeline(unet=net, scheduler=scheduler)
