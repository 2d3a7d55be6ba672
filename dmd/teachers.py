"""A teacher: fetched from a folder or the hub, read back as a frozen Denoiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DiTTransformer2DModel, LCMScheduler, UNet2DConditionModel
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from torch import Tensor, nn

from dmd.codecs import PIXELS, Codec, Latents
from dmd.config import TeacherConfig
from dmd.denoisers import Cond, Denoiser, Guided, as_denoiser
from dmd.errors import TeacherError
from dmd.networks import Captioned, CaptionedXL, Transformer, bare
from dmd.pipelines import load_pipeline, network_of, save_pipeline
from dmd.sampling import Sampler, ddim, heun
from dmd.texts import Tables, embed_all


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher, the diffusers pipeline it came in, and what it was told about images and conditions."""

    denoiser: Denoiser
    real: Denoiser  # the same with guidance, where there is any: what its samples and its score come from
    pipeline: Any
    shape: tuple[int, int, int]  # of what the network works on: pixels or latents
    classes: int  # conditions that it knows, the null condition included; 0 = unconditional
    codec: Codec = PIXELS
    captions: tuple[str, ...] = ()  # of the conditions, where they are texts

    def sampler(self, name: str) -> Sampler:
        """Deterministic: ddim_N in N network passes, or heun_N in 2 N - 1. Raises TeacherError for too large an N."""
        method, _, steps = name.partition("_")
        solve, nfe = {"ddim": (ddim, int(steps)), "heun": (heun, 2 * int(steps) - 1)}[method]
        if int(steps) > (there := self.denoiser.process.timesteps):
            raise TeacherError(f"{name}: the teacher's schedule has {there} steps, no more can be taken")
        device = next(self.denoiser.parameters()).device
        return Sampler(name, nfe, self.shape, bool(self.classes), device, partial(self._make, solve, int(steps)))

    def _make(self, solve: Callable[..., Tensor], steps: int, z: Tensor, cond: Cond) -> Tensor:
        return self.codec.decode(solve(self.real, z, steps, cond))


def fetch(cfg: TeacherConfig, out: Path) -> dict[str, str]:
    """Copy a teacher from a folder or the hub into the diffusers folder `out`. Returns where it came from."""
    if cfg.source == "hub":
        location = Path(download(cfg.hub_id, cfg.revision))
        origin = {"source": "hub", "hub_id": cfg.hub_id, "commit": location.name}
    else:
        location, origin = Path(cfg.folder), {"source": "folder"}
    pipe = load_pipeline(location)
    save_pipeline(network_of(pipe, location), pipe.scheduler, out, like=pipe)
    return origin


def download(hub_id: str, revision: str) -> str:
    """Fetch a diffusers pipeline from the hub, or find it in the local cache. Returns its folder, named by commit."""
    try:
        return str(DiffusionPipeline.download(hub_id, revision=revision))
    except (OSError, ValueError) as e:
        raise TeacherError(f"hub_id {hub_id!r} at {revision!r} {_reason(hub_id, e)}") from e


def _reason(hub_id: str, error: Exception) -> str:
    """Why nothing came; diffusers hides the hub's own answer behind an error of its cache."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(answer, GatedRepoError):
        return f"is gated: accept its terms at https://huggingface.co/{hub_id}, then log in (hf auth login)"
    if isinstance(answer, RevisionNotFoundError):
        return "could not be fetched: there is no such revision; see the repository's branches, tags and commits"
    if isinstance(answer, RepositoryNotFoundError):
        return "could not be fetched: it does not exist, or is private and needs a login (hf auth login)"
    return (
        f"could not be fetched and is not in the local cache ({' '.join(str(error).split())[:200]}); "
        "check the name and the network, or use source: folder"
    )


def describe(teacher: Teacher) -> str:
    """One line of what was read from the folder: kind, size, parametrisation, schedule, conditions, images."""
    scheduler, net = teacher.pipeline.scheduler, bare(teacher.denoiser.net)
    cfg = scheduler.config
    labels = f"{teacher.classes} labels with the null one" if teacher.classes else "unconditional"
    facts = (
        f"{type(teacher.pipeline).__name__} with {type(net).__name__}",
        f"{net.num_parameters():,} parameters",
        f"predicts {cfg.get('prediction_type', 'flow')}",
        f"{cfg.get('beta_schedule', type(scheduler).__name__)} schedule of {teacher.denoiser.process.timesteps} steps",
        "told of captions" if teacher.captions else labels,
        "images {}x{}x{}".format(*teacher.codec.image_shape(teacher.shape)),
    )
    return ", ".join(facts)


def load_teacher(
    folder: Path,
    device: torch.device,
    guidance_scale: float = 1.0,
    captions: Sequence[str] = (),
    texts: Tables | None = None,
) -> Teacher:
    """The teacher in `folder`, frozen, in eval mode. Guidance needs a network that was trained with a null condition.

    captions: of the conditions, for a network that is told of texts; texts: their embeddings as stage `encode` stored
    them, made here where there are none. Raises TeacherError for what cannot be used.
    """
    pipe = load_pipeline(folder)
    inner = network_of(pipe, folder)
    net, classes = _conditioned(inner, pipe, tuple(captions), texts, folder)
    try:
        denoiser = as_denoiser(net, pipe.scheduler).eval().requires_grad_(False).to(device)
    except ValueError as e:
        raise TeacherError(f"{folder}: {e}") from e
    if guidance_scale != 1 and not classes:
        raise TeacherError(f"guidance.scale: {guidance_scale} needs a teacher with conditions; {folder} has none")
    return Teacher(
        denoiser=denoiser,
        real=denoiser if guidance_scale == 1 else Guided(denoiser, guidance_scale, null=classes - 1),
        pipeline=pipe,
        shape=(inner.config["in_channels"], *_sides(inner)),
        classes=classes,
        codec=PIXELS if net is inner else Latents(pipe.vae.eval().requires_grad_(False).to(device)),
        captions=tuple(captions) if isinstance(net, Captioned) else (),
    )


def _conditioned(
    inner: Any, pipe: Any, captions: tuple[str, ...], texts: Tables | None, folder: Path
) -> tuple[nn.Module, int]:
    """The network with conditions as indices, and their number."""
    if isinstance(inner, UNet2DConditionModel):
        if not captions:
            raise TeacherError(f"{folder} is conditioned on text, and the data have no captions")
        return _captioned(inner, pipe, texts or embed_all(pipe, captions)), len(captions) + 1
    if isinstance(inner, DiTTransformer2DModel):
        return Transformer(inner), inner.config["num_embeds_ada_norm"] + 1
    return inner, inner.config["num_class_embeds"] or 0


def _captioned(unet: UNet2DConditionModel, pipe: Any, texts: Tables) -> Captioned:
    if "pooled" not in texts:
        return Captioned(unet, texts["embeddings"])
    height, width = (side * pipe.vae_scale_factor for side in _sides(unet))
    return CaptionedXL(unet, texts["embeddings"], texts["pooled"], (height, width))


def _sides(net: Any) -> tuple[int, int]:
    """Height and width of what a network works on."""
    size = net.config["sample_size"]
    return (size, size) if isinstance(size, int) else tuple(size)


def sampling_scheduler(teacher: Teacher, times: tuple[int, ...]) -> Any:
    """The scheduler to ship with a generator of these steps, so that the stock pipeline makes its images.

    Stock pipelines begin at a schedule's last index: one that begins earlier gets a schedule that ends there.
    """
    scheduler = teacher.pipeline.scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        return scheduler
    config = {**scheduler.config, "clip_sample": False, "thresholding": False}
    if (length := times[0] + 1) < teacher.denoiser.process.timesteps:
        betas = scheduler.betas[:length].tolist()  # as they are: rescaled already, where that is asked for
        config |= {"num_train_timesteps": length, "trained_betas": betas, "rescale_betas_zero_snr": False}
    if isinstance(teacher.codec, Latents):  # x0, noised anew to the next step: what backward simulation trained
        lcm: Any = LCMScheduler.from_config(config, original_inference_steps=len(times))
        return lcm
    made: Any = DDIMScheduler.from_config(config, timestep_spacing="trailing", set_alpha_to_one=True)
    return made


def check_fits(teacher: Teacher, shape: tuple[int, int, int], classes: int) -> None:
    """Raise TeacherError where the teacher's images or labels are not the data's.

    classes: of the data, 0 where captions alone are their conditions. Of a UNet on labels the last row may be the null
    label or the last class; a DiT has a null label always.
    """
    made = teacher.codec.image_shape(teacher.shape)
    if made != shape:
        raise TeacherError(f"the teacher makes images of shape {made}, the data are {shape}")
    if not teacher.classes or teacher.captions:
        return
    if not classes:
        raise TeacherError("the teacher is told of labels, and the data have captions but no classes")
    no_null = classes == teacher.classes and not isinstance(teacher.denoiser.net, Transformer)
    if classes != teacher.classes - 1 and not no_null:
        raise TeacherError(
            f"the teacher knows {teacher.classes} labels with the null one, the data have {classes}: "
            "they would not mean the same"
        )
    if no_null and isinstance(teacher.real, Guided):
        raise TeacherError(
            f"guidance.scale: the teacher's {teacher.classes} labels are all classes of the data; "
            "guidance needs a null one besides"
        )


def check_exportable(teacher: Teacher, times: tuple[int, ...]) -> None:
    """Raise TeacherError where the stock pipeline of the teacher's kind could not run a generator of these steps."""
    if not isinstance(teacher.denoiser.net, Transformer):
        return
    last, fixed = teacher.denoiser.process.timesteps - 1, not hasattr(teacher.pipeline.scheduler, "alphas_cumprod")
    if fixed and times[0] != last:
        raise TeacherError(
            f"method.generator_timestep: {times[0]} cannot be told to diffusers' DiTPipeline, which begins at {last} "
            f"with {type(teacher.pipeline.scheduler).__name__}; use auto"
        )
    if not fixed and times != (own := _own_times(teacher, times)):
        raise TeacherError(
            f"method.generator_timestep: from {times[0]} on the steps are {times}, and diffusers' DiTPipeline, "
            f"told their number alone, would take {own}; use {times[0] - (times[0] + 1) % len(times)}"
        )


def _own_times(teacher: Teacher, times: tuple[int, ...]) -> tuple[int, ...]:
    """Those that the exported scheduler takes of itself for so many steps."""
    scheduler = sampling_scheduler(teacher, times)
    scheduler.set_timesteps(len(times))
    return tuple(scheduler.timesteps.tolist())
