"""A teacher as a diffusers folder: from a folder, from the hub, or made new; read back as a Denoiser."""

import json
from dataclasses import dataclass
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from diffusers.utils.logging import disable_progress_bar
from safetensors import SafetensorError
from torch import Tensor

from dmd.config import TeacherConfig
from dmd.denoisers import Cond, Denoiser, Guided, as_denoiser
from dmd.errors import TeacherError
from dmd.files import write_text
from dmd.sampling import Sampler, ddim

disable_progress_bar()  # of loading a pipeline: a tenth of a second, in between the stage's own lines


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher, the diffusers scheduler it came with, and what it was told about images and labels."""

    denoiser: Denoiser
    real: Denoiser  # the same with guidance, where there is any: what its samples and its score come from
    scheduler: Any
    shape: tuple[int, int, int]
    classes: int  # rows of the class embedding; 0 = unconditional

    def sampler(self, steps: int) -> Sampler:
        """Deterministic DDIM in `steps` network passes."""
        device = next(self.denoiser.parameters()).device
        return Sampler(f"ddim_{steps}", steps, self.shape, bool(self.classes), device, partial(_ddim, self.real, steps))


def _ddim(denoiser: Denoiser, steps: int, z: Tensor, cond: Cond) -> Tensor:
    return ddim(denoiser, z, steps, cond)


def new_unet(cfg: TeacherConfig, shape: tuple[int, int, int], classes: int) -> UNet2DModel:
    """A UNet2DModel for images [C, H, W] and `classes` labels plus the null class; attention in the inner block."""
    depth = len(cfg.channels)
    if shape[1] % 2 ** (depth - 1) or shape[2] % 2 ** (depth - 1):
        raise TeacherError(
            f"teacher.channels: {depth} levels halve the image {depth - 1} times; {shape[1:]} does not allow it"
        )
    return UNet2DModel(
        sample_size=shape[1:],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=cfg.layers_per_block,
        block_out_channels=tuple(cfg.channels),
        down_block_types=("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1),
        norm_num_groups=gcd(8, *cfg.channels),
        num_class_embeds=classes + 1 if classes else None,
    )


def new_scheduler(cfg: TeacherConfig) -> Any:
    """The noise schedule of a teacher trained here."""
    if cfg.prediction_type == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=cfg.timesteps)
    if cfg.prediction_type == "edm":
        return EDMEulerScheduler(num_train_timesteps=cfg.timesteps)
    return DDPMScheduler(
        num_train_timesteps=cfg.timesteps,
        beta_schedule=cfg.beta_schedule,
        prediction_type=cfg.prediction_type,
        clip_sample=False,
    )


def save_pipeline(net: Any, scheduler: Any, folder: Path) -> None:
    """Write unet, scheduler and model_index.json as diffusers does: safetensors and json."""
    # DDIMPipeline makes a DDIMScheduler of what it is given; DDPMPipeline leaves an EDM or flow scheduler alone.
    pipeline = DDIMPipeline if hasattr(scheduler, "alphas_cumprod") else DDPMPipeline
    pipeline(unet=net, scheduler=scheduler).save_pretrained(folder, safe_serialization=True)
    for config in folder.rglob("*.json"):  # diffusers writes where a network was loaded from: no two clones would agree
        content = json.loads(config.read_text())
        if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
            write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


def fetch(cfg: TeacherConfig, out: Path) -> dict[str, str]:
    """Copy a teacher from a folder or the hub into the diffusers folder `out`. Returns where it came from."""
    if cfg.source == "hub":
        location = Path(download(cfg.hub_id, cfg.revision))
        origin = {"source": "hub", "hub_id": cfg.hub_id, "commit": location.name}
    else:
        location, origin = Path(cfg.folder), {"source": "folder"}
    pipe = load_pipeline(location)
    save_pipeline(pipe.unet, pipe.scheduler, out)
    return origin


def download(hub_id: str, revision: str) -> str:
    """Fetch a diffusers pipeline from the hub, or find it in the local cache. Returns its folder, named by commit."""
    try:
        return str(DiffusionPipeline.download(hub_id, revision=revision))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise TeacherError(
            f"hub_id {hub_id!r} at {revision!r} could not be fetched and is not in the local cache ({reason}); "
            "check the name and the network, or use source: folder"
        ) from e


def load_pipeline(folder: Path) -> Any:
    """Load a pipeline folder by diffusers' own loader. Raises TeacherError where that fails."""
    if not (folder / "model_index.json").is_file():
        raise TeacherError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, SafetensorError, RuntimeError) as e:
        raise TeacherError(f"{folder} could not be loaded: {' '.join(str(e).split())[:300]}") from e
    net = getattr(pipe, "unet", None)
    if not isinstance(net, UNet2DModel):
        raise TeacherError(f"{folder} holds a {type(pipe).__name__}; only pipelines with a UNet2DModel are supported")
    return pipe


def load_teacher(folder: Path, device: torch.device, guidance_scale: float = 1.0) -> Teacher:
    """The teacher in `folder`, frozen, in eval mode. Guidance needs a network that was trained with a null label."""
    pipe = load_pipeline(folder)
    net: UNet2DModel = pipe.unet
    try:
        denoiser = as_denoiser(net, pipe.scheduler)
    except ValueError as e:
        raise TeacherError(f"{folder}: {e}") from e
    size = net.config["sample_size"]
    height, width = (size, size) if isinstance(size, int) else size
    denoiser, classes = denoiser.eval().requires_grad_(False).to(device), net.config["num_class_embeds"] or 0
    if guidance_scale != 1 and not classes:
        raise TeacherError(f"guidance.scale: {guidance_scale} needs a teacher with class labels; {folder} has none")
    return Teacher(
        denoiser=denoiser,
        real=denoiser if guidance_scale == 1 else Guided(denoiser, guidance_scale, null=classes - 1),
        scheduler=pipe.scheduler,
        shape=(net.config["in_channels"], height, width),
        classes=classes,
    )


def sampling_scheduler(scheduler: Any) -> Any:
    """The scheduler to ship with a generator; for DDPM types deterministic DDIM whose one step starts at T-1."""
    if not hasattr(scheduler, "alphas_cumprod"):
        return scheduler
    made: Any = DDIMScheduler.from_config(
        scheduler.config, timestep_spacing="trailing", clip_sample=False, thresholding=False, set_alpha_to_one=True
    )
    return made


def check_fits(teacher: Teacher, shape: tuple[int, int, int], classes: int) -> None:
    """Raise TeacherError where the teacher's images or labels are not the data's."""
    if teacher.shape != shape:
        raise TeacherError(f"the teacher makes images of shape {teacher.shape}, the data are {shape}")
    if teacher.classes and teacher.classes < classes:
        raise TeacherError(f"the teacher knows {teacher.classes} labels, the data have {classes}")
