"""Teachers built from the configuration of their network alone.

On the meta device such a teacher has shapes but no memory, which is enough to count parameters, bytes and operations.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import diffusers
import torch
from diffusers import DiffusionPipeline, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from huggingface_hub import try_to_load_from_cache
from torch import nn

from dmd.codecs.latents import Latents
from dmd.codecs.layouts import layout_of
from dmd.codecs.pixels import PIXELS
from dmd.config import Params
from dmd.data.splits import DIGIT_NAMES, Split
from dmd.diffusion.denoiser import PARAMETRISATIONS, Denoiser
from dmd.diffusion.process import ddpm_process
from dmd.errors import UserError
from dmd.families.sdxl import SdxlWrapper
from dmd.families.stable_diffusion import TextUnetWrapper
from dmd.families.transformers import TEXT_TRANSFORMERS
from dmd.families.transformers.base import TextTransformer
from dmd.networks.dit import DitWrapper
from dmd.networks.wrapper import unwrap
from dmd.preparation.sources import SOURCES
from dmd.teacher_training.architectures import new_network
from dmd.teacher_training.sana import new_sana
from dmd.teachers.teacher import Teacher
from dmd.yaml_files import load_object
from flows.workspace.folders import PRESETS

CLIP_TOKENS = 77  # per caption, in every published CLIP text encoder
TEXT_FAMILIES = {family.network_class.__name__: family for family in TEXT_TRANSFORMERS}
OTHERS = (UNet2DModel, DiTTransformer2DModel, UNet2DConditionModel)
NETWORKS: dict[str, Any] = {
    net.__name__: net for net in (*OTHERS, *(family.network_class for family in TEXT_TRANSFORMERS))
}
TEXT_PARTS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PARTS = ("unet", "transformer", "vae", *TEXT_PARTS)

Configs = Mapping[str, Any]  # name of a part of the pipeline -> its config.json


class Unknown(UserError):
    """The configuration of the teacher's network is not available."""


def teacher_configs(
    params: Params, root: Path, preset: str | None = None, missing: Collection[str] = ()
) -> Configs | None:
    """Read the configurations of the teacher's networks; None for a teacher that is trained here.

    The configurations of a folder are read from the folder, those of a hub id from the local hub cache. If the cache
    does not hold that revision, or if teacher.folder is among the `missing` parameters, they are read from
    experiments/presets/PRESET.teacher.json. Raises Unknown if no source has them.
    """
    cfg, of_preset = params.teacher, _preset_configs(root, preset)
    if "teacher.folder" in missing:
        if of_preset is None:
            raise Unknown("teacher.folder is not set")
        return of_preset
    if cfg.source == "train":
        return None
    if cfg.source == "folder":
        return _read_folder(root / cfg.folder)
    index = try_to_load_from_cache(cfg.hub_id, "model_index.json", revision=cfg.revision)
    if isinstance(index, str):
        return _read_folder(Path(index).parent)
    if of_preset is not None and (of_preset["hub_id"], of_preset["revision"]) == (cfg.hub_id, cfg.revision):
        return of_preset
    raise Unknown(f"the local hub cache has no {cfg.hub_id} at revision {cfg.revision}")


def _preset_configs(root: Path, preset: str | None) -> Configs | None:
    """The configurations that belong to a preset; None if it has none."""
    file = root / PRESETS / f"{preset}.teacher.json"
    return json.loads(file.read_text()) if preset and file.is_file() else None


def _read_folder(folder: Path) -> Configs:
    """The json files of a diffusers pipeline folder. Raises Unknown if it holds no supported network."""
    files = {name: folder / name / "config.json" for name in PARTS}
    configs = {name: load_object(file, Unknown) for name, file in files.items() if file.is_file()}
    flat = folder / "config.json"  # a pipeline of a single network may be stored without subfolders
    if not configs and flat.is_file() and (config := load_object(flat, Unknown)).get("_class_name") in NETWORKS:
        return {"unet": config}
    if not {"unet", "transformer"} & set(configs):
        raise Unknown(f"{folder} has no unet/config.json or transformer/config.json")
    return configs


def is_guided_by_input(configs: Configs | None) -> bool:
    """Whether the network of these configurations takes the guidance scale as an input; None: one trained here."""
    config = (configs or {}).get("transformer", {})
    family = TEXT_FAMILIES.get(config.get("_class_name", ""))
    return family is not None and family.embeds_guidance and bool(config.get("guidance_embeds"))


def blank_teacher(
    params: Params, configs: Configs | None, device: torch.device, class_count: int | None = None
) -> Teacher:
    """Build an unguided teacher with untrained weights, from `configs`, or from params if `configs` is None.

    Its schedule and parametrisation are stand-ins of equal cost. `class_count` is the number of classes of the prepared
    data; if it is None, data.source determines the number. Raises Unknown for a network that is not supported.
    """
    count = class_count if class_count is not None else SOURCES[params.data.source].classes
    with torch.device(device), torch.random.fork_rng(devices=[]):
        inner, vae, tokens = _networks_of_params(params, count) if configs is None else _networks_of_configs(configs)
        net, conditions = _add_conditions(inner, count, tokens)
        process = ddpm_process(torch.linspace(0.999, 0.001, params.teacher.timesteps))
        denoiser = Denoiser(net, process, PARAMETRISATIONS["sample"]).eval().requires_grad_(False).to(device)
        codec = PIXELS if vae is None else Latents(vae.eval().requires_grad_(False))
    shape = _input_shape(inner, vae, params.data.size)
    no_pipeline = cast(DiffusionPipeline, SimpleNamespace())
    return Teacher(denoiser, denoiser, no_pipeline, shape, conditions, codec)


def blank_text_encoders(params: Params, configs: Configs | None, class_count: int | None = None) -> list[nn.Module]:
    """Build the text encoders of the teacher on the meta device; none if it has none, or if their configs are unknown.

    Arguments are those of blank_teacher.
    """
    with torch.device("meta"):
        if configs is not None:
            return [_new_text_encoder(configs[name]) for name in TEXT_PARTS if name in configs]
        count = class_count if class_count is not None else SOURCES[params.data.source].classes
        encoder = getattr(_parts_of_params(params, count)[1], "text_encoder", None)
        return [] if encoder is None else [encoder]


def _new_text_encoder(config: Mapping[str, Any]) -> nn.Module:
    """Build a network of transformers by its configuration, which names its class and its type."""
    import transformers  # it takes seconds

    values = {key: value for key, value in config.items() if key != "model_type"}
    return getattr(transformers, config["architectures"][0])(
        transformers.AutoConfig.for_model(config["model_type"], **values)
    )


def _input_shape(inner: Any, vae: Any, pixels: int) -> tuple[int, int, int]:
    """(C, H, W) of the network's input; pixels: side of the images, for a network whose config has no size."""
    family = TEXT_FAMILIES.get(type(inner).__name__)
    key, packing = ("sample_size", 1) if family is None else (family.size_key, family.packing)
    size = inner.config.get(key) or pixels // layout_of(vae).downscaling(vae.config)
    height, width = (size, size) if isinstance(size, int) else size
    return inner.config["in_channels"] // packing**2, height, width


def _networks_of_params(params: Params, class_count: int) -> tuple[Any, Any, int]:
    """The network that stage `teacher` would train, its VAE or None, and the number of tokens of a caption."""
    net, parts, tokens = _parts_of_params(params, class_count)
    return net, getattr(parts, "vae", None), tokens


def _parts_of_params(params: Params, class_count: int) -> tuple[Any, Any, int]:
    """Return the same as `_networks_of_params`, with all other parts of the pipeline in place of the VAE."""
    names = (*DIGIT_NAMES, *map(str, range(len(DIGIT_NAMES), class_count)))[:class_count]
    captions = tuple(params.data.caption.format(name=name) for name in names)
    if params.teacher.network in ("text_unet", "sana") and not captions:
        raise Unknown("the captions are not prepared yet")
    shape = (params.data.channels, params.data.size, params.data.size)
    # One token per byte, one for the beginning and one for the end.
    tokens = max((len(caption.encode()) for caption in captions), default=0) + 2
    if params.teacher.network == "sana":
        pipe = new_sana(params.teacher, shape)
        return pipe.transformer, pipe, tokens
    split = SimpleNamespace(shape=shape, class_names=names, class_captions=captions)
    net, parts = new_network(params.teacher, cast(Split, split))
    return unwrap(net), parts, tokens


def _networks_of_configs(configs: Configs) -> tuple[Any, Any, int]:
    """The network of these configurations, its VAE or None, and the number of tokens of a caption."""
    config = configs.get("unet") or configs["transformer"]
    kind = config.get("_class_name")
    if kind not in NETWORKS:
        raise Unknown(f"its network is a {kind}, which is not supported")
    net = NETWORKS[kind].from_config(config)
    if kind == "UNet2DModel":
        return net, None, 0
    if "vae" not in configs:
        raise Unknown(f"its {kind} comes without a vae/config.json")
    vae = getattr(diffusers, configs["vae"].get("_class_name", "AutoencoderKL"))
    return net, vae.from_config(configs["vae"]), CLIP_TOKENS


def _add_conditions(inner: Any, class_count: int, tokens: int) -> tuple[nn.Module, int]:
    """Wrap the network so that it takes conditions as indices; return it with their number.

    Embeddings of captions are zeros.
    """
    if (family := TEXT_FAMILIES.get(type(inner).__name__)) is not None:
        texts = {name: torch.zeros(class_count + 1, *shape) for name, shape in family.text_shapes(inner.config).items()}
        return TextTransformer(inner, family, texts), class_count + 1
    if isinstance(inner, DiTTransformer2DModel):
        return DitWrapper(inner), inner.config["num_embeds_ada_norm"] + 1
    if isinstance(inner, UNet2DModel):
        return inner, inner.config["num_class_embeds"] or 0
    config, conditions = inner.config, class_count + 1
    embeddings = torch.zeros(conditions, tokens, config["cross_attention_dim"])
    if config["addition_embed_type"] != "text_time":
        return TextUnetWrapper(inner, embeddings), conditions
    pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
    side = config["sample_size"] * 8
    return SdxlWrapper(inner, embeddings, torch.zeros(conditions, pooled), (side, side)), conditions
