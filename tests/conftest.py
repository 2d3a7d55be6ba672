"""Small real things that tests share: a tiny teacher folder, a tiny data folder, a network that heeds its inputs."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from dmd.config import Params, load_params
from dmd.data.shards import to_unit
from dmd.data.splits import DIGIT_NAMES, Split
from dmd.diffusion.denoiser import Denoiser, as_denoiser
from dmd.diffusion.pipelines import save_pipeline
from dmd.distillation.batches import TrainingImages
from dmd.distillation.random_source import RandomSource
from dmd.distillation.trainer import Workers
from dmd.preparation.prepare import prepare
from dmd.teacher_training.architectures import new_scheduler, new_unet
from dmd.teachers.teacher import Teacher, load_teacher

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
torch.set_num_threads(1)  # the networks are tiny: more threads wait for one another


class ToyNet(nn.Module):
    """A network with diffusers' call signature whose output depends on the image, the time and the label."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(1, channels)
        self.label = nn.Embedding(classes + 1, channels)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> SimpleNamespace:
        shift = self.time(t.to(x.dtype)[:, None] / 1000)
        if class_labels is not None:
            shift = shift + self.label(class_labels)
        return SimpleNamespace(sample=torch.tanh(self.conv(x) + shift[:, :, None, None]))


def scheduler(prediction_type: str = "v_prediction", beta_schedule: str = "squaredcos_cap_v2") -> DDPMScheduler:
    return DDPMScheduler(1000, beta_schedule=beta_schedule, prediction_type=prediction_type, clip_sample=False)


def toy_denoiser(prediction_type: str = "v_prediction", seed: int = 0, dtype: torch.dtype = torch.float32) -> Denoiser:
    torch.manual_seed(seed)
    return as_denoiser(ToyNet().to(dtype), scheduler(prediction_type))


def unet_denoiser(seed: int = 0, channels: tuple[int, int] = (8, 8)) -> Denoiser:
    """A tiny class-conditional UNet2DModel whose last layer is not near zero, so that its output heeds its input."""
    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, num_class_embeds=11,
    )  # fmt: skip
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.05)
    return as_denoiser(net, scheduler()).eval()


def split(n: int = 40) -> Split:
    """Random images with labels."""
    rng = torch.Generator().manual_seed(11)
    images = torch.randint(256, (n, 1, 8, 8), generator=rng, dtype=torch.uint8)
    return Split(images, torch.arange(n) % 10, ["a digit"] * n, DIGIT_NAMES, ("a digit",) * 10)


def reals(n: int = 40) -> TrainingImages:
    """The same as a network sees them."""
    return TrainingImages(to_unit(split(n).images), split(n).labels)


def draws(seed: int = 7, n: int = 6, turn: str = "generator") -> RandomSource:
    return RandomSource(seed, 0, turn, range(n))


def alone(parts: int = 1) -> Workers:
    """One process."""
    return Workers(Accelerator(cpu=True), parts)


@pytest.fixture(scope="session")
def params() -> Params:
    """The default params.yaml."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    out = tmp_path_factory.mktemp("data") / "data"
    prepare(params.data, out)
    return out


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """An untrained class-conditional UNet as a diffusers folder."""
    folder = tmp_path_factory.mktemp("teacher") / "teacher"
    torch.manual_seed(0)
    cfg = params.teacher.model_copy(update={"channels": [8, 8]})
    net = new_unet(cfg, (1, 8, 8), 10)
    with torch.no_grad():
        net.conv_out.weight.normal_(
            std=0.05
        )  # diffusers starts the last layer near zero: let the output depend on the input
    save_pipeline(net, new_scheduler(cfg), folder)
    return folder


@pytest.fixture
def teacher(teacher_folder: Path) -> Teacher:
    return load_teacher(teacher_folder, CPU)
