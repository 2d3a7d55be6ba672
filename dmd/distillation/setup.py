"""Builds a distillation from the parameters and the outputs of earlier stages."""

from pathlib import Path

import torch
from torch import Tensor

from dmd.codecs.pixels import Pixels
from dmd.config import NONE, MethodConfig, Params, TrainConfig
from dmd.data.shards import Images
from dmd.data.splits import Split
from dmd.diffusion.denoiser import Denoiser, GuidedByInput
from dmd.diffusion.process import Process
from dmd.distillation.inputs.batches import TrainingImages
from dmd.distillation.lora import quantize
from dmd.distillation.methods import Method, Setting, build_method, check_method, frozen_networks
from dmd.distillation.networks import Networks, freeze_spatial
from dmd.encoding.encoded import Encoded
from dmd.errors import ConfigError, FeatureNetworkError, HubError
from dmd.features.frozen import FrozenNetwork
from dmd.features.load import NetworkName, find_weights, load_frozen
from dmd.features.own import OWN, load_own
from dmd.generator.generator import Generator, load_generator
from dmd.generator.scheduler import check_exportable
from dmd.networks.half import halve
from dmd.samplers.few_step import level_times
from dmd.samplers.sampler import to_uint8
from dmd.storage.checkpoint import Scratch
from dmd.teachers.check import check_fits
from dmd.teachers.levels import set_levels
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher

MAX_VALIDATION_PAIRS = 500  # pairs that replace a validation split without images


def new_method(
    params: Params,
    teacher: Teacher,
    split: Split,
    encoded: Encoded,
    pairs: Pairs,
    own: Path,
) -> Method:
    """Build the method that the parameters name, with its frozen trunks, and give the teacher its noise levels.

    own: folder of stage `trunk`. Raises ConfigError or TeacherError if it cannot run on this teacher and these data.
    """
    check_fits(teacher, split.shape, len(split.class_names))
    levels = params.method.levels
    has_null = bool(teacher.captions) or teacher.conditions > len(split.class_names)
    by_input = isinstance(teacher.guided, GuidedByInput)
    check_method(params, Setting(isinstance(teacher.codec, Pixels), split.has_images, len(pairs), has_null, by_input))
    if not split.has_images:
        x = torch.empty(0, *teacher.shape)
    else:
        x = split.images.unit() if encoded.latents is None else encoded.latents
    data = TrainingImages(x, split.labels)
    denoiser = teacher.denoiser
    try:
        if levels.count != "teacher":
            set_levels(teacher, levels.count)
        method = build_method(
            params.method,
            denoiser.process.timesteps,
            pairs,
            data,
            denoiser.default_generator_timestep(),
            load_trunks(params.method, own, next(denoiser.parameters()).device),
        )
        if levels.are_set:
            method.set_times(times_of_levels(params.method, denoiser.process))
    except ValueError as e:
        raise ConfigError(str(e)) from None
    check_exportable(teacher, method.generator_times, levels.between)
    return method


def times_of_levels(cfg: MethodConfig, process: Process) -> tuple[int, ...]:
    """Indices of the noise levels that method.levels lists or spaces evenly.

    Raises ValueError if two of them have one index, and for after_shift or a shift of the method's own without a flow.
    """
    if cfg.levels.after_shift:
        return level_times(process, cfg.levels.after_shift)
    sigmas = cfg.levels.before_shift or [1 - k / cfg.steps for k in range(cfg.steps)]
    if cfg.levels.shift != "teacher":
        return level_times(process, sigmas, cfg.levels.shift)
    times = tuple(max(0, round(sigma * process.timesteps) - 1) for sigma in sigmas)
    if len(set(times)) < len(times):
        raise ValueError(f"method.levels: two of {list(sigmas)} are one of the teacher's levels; use other levels")
    return times


def load_trunks(cfg: MethodConfig, own: Path, device: torch.device) -> dict[str, FrozenNetwork]:
    """Load the frozen networks of images that the methods read. own: folder of stage `trunk`.

    Raises ConfigError if one cannot be loaded.
    """
    side = None if cfg.gan.trunk_side == "auto" else cfg.gan.trunk_side
    nets = {}
    for name, key in frozen_networks(cfg).items():
        try:
            net = load_own(own, device) if name == OWN else load_frozen(name, device, side)
        except (FeatureNetworkError, HubError) as e:
            raise ConfigError(f"{key}: {e}") from e
        if net is None:
            raise ConfigError(f"{key}: {own} holds no network; set trunk.source to train")
        nets[name] = net
    return nets


def new_networks(method: Method, teacher: Teacher, cfg: TrainConfig, init_from: str, device: torch.device) -> Networks:
    """The networks of a method at the start of a run. Raises ConfigError if they do not fit the parameters."""
    nets = method.networks(teacher, cfg.seed, (cfg.lora_rank, cfg.lora_rank_critic), cfg.lora_alpha)
    if (folder := Path(init_from)) != Path(NONE):
        load_weights(nets.generator, load_generator(folder, device), folder)
    if cfg.generator_parts == "no_spatial":
        try:
            freeze_spatial(nets.generator)
        except ValueError as e:
            raise ConfigError(str(e)) from None
    if cfg.frozen_precision == "bf16":
        halve(nets.teacher)
    if cfg.frozen_precision == "int8":
        quantize(nets.teacher, [nets.generator, nets.critic, nets.scorer])
    if cfg.gradient_checkpointing:
        nets.checkpoint_gradients()
    if cfg.offload == "teacher":
        nets.offload_teacher(device)
    if cfg.compile != "none":
        nets.compile(cfg.compile)
    return nets


def new_generator(denoiser: Denoiser, method: Method, teacher: Teacher, classes: tuple[str, ...]) -> Generator:
    """A generator of a network, such as an average of the one that trains. classes: names of the data's conditions."""
    names = classes if teacher.conditions else ()
    between = method.cfg.levels.between
    return Generator(denoiser, method.generator_times, teacher.shape, names, teacher.codec, between)


def load_weights(generator: Denoiser, finished: Generator, folder: Path) -> None:
    """Load the weights of a finished generator. Raises ConfigError if they belong to another network."""
    try:
        generator.load_state_dict(finished.denoiser.state_dict())
    except RuntimeError:
        raise ConfigError(
            f"method.init_from: the network in {folder} differs from the teacher's; use another folder"
        ) from None


def new_scratch(params: Params, inputs: dict[str, Path]) -> Scratch:
    """The resumable state of a run, whose name is a hash of the parameters and files that the result depends on."""
    groups = {name: getattr(params, name).model_dump() for name in ("guidance", "method")}
    groups |= {"train": params.train.bits(), "runtime": params.runtime.bits()}
    return Scratch("train", groups, inputs | files_in_params(params))


def files_in_params(params: Params) -> dict[str, Path]:
    """Files that the parameters name; if the contents of one change, earlier checkpoints belong to another run."""
    files = {"init_from": Path(params.method.init_from), "lpips": Path(params.method.lpips.weights)}
    names = {name: NetworkName.parse(name) for name in frozen_networks(params.method) if name != OWN}
    files |= {text: find_weights(name.kind, name.weights) for text, name in names.items()}
    return {name: path for name, path in files.items() if path != Path(NONE) and path.exists()}


def validation_set(train: Split, validation: Split, pairs: Pairs, teacher: Teacher) -> tuple[Images | Tensor, Tensor]:
    """uint8 images [N, C, H, W] to validate against, and labels [M] of the images that the generator is to make.

    Images of the split stay on disk. Its captions are unknown to the generator, so that the labels come from the train
    split. If the data have no images, the teacher's images in the pairs replace them.
    """
    if validation.has_images:
        labels = validation.labels if train.class_names else train.labels[: len(validation.labels)]
        return validation.images, labels
    n = min(len(pairs), MAX_VALIDATION_PAIRS)
    labels = train.labels[:n] if pairs.labels is None else pairs.labels[:n].cpu()
    x = pairs.x[:n].to(teacher.denoiser.process.alpha_grid.device)  # the weights may be offloaded
    return to_uint8(teacher.codec.decode(x)).cpu(), labels
