"""Small denoisers whose output depends on the image, the time and the label."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn

from dmd.diffusion.denoiser import Denoiser, as_denoiser

CPU = torch.device("cpu")
KINDS = ["epsilon", "v_prediction", "sample", "flow", "edm"]  # parametrisations


class ToyNet(nn.Module):
    """A network with the call signature of diffusers whose output depends on the image, the time and the label."""

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


def lively(net: nn.Module) -> Any:
    """Perturb the weights of a network, so that its output depends on its input."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return net.eval()


def scheduler(prediction_type: str = "v_prediction", beta_schedule: str = "squaredcos_cap_v2") -> DDPMScheduler:
    """A scheduler of 1,000 steps without clipping."""
    return DDPMScheduler(1000, beta_schedule=beta_schedule, prediction_type=prediction_type, clip_sample=False)


def toy_denoiser(prediction_type: str = "v_prediction", seed: int = 0, dtype: torch.dtype = torch.float32) -> Denoiser:
    """A ToyNet as a denoiser."""
    torch.manual_seed(seed)
    return as_denoiser(ToyNet().to(dtype), scheduler(prediction_type))


def unet_denoiser(seed: int = 0, channels: tuple[int, int] = (8, 8)) -> Denoiser:
    """A tiny class-conditional UNet2DModel, whose last layer is not near zero, so the output depends on the input."""
    torch.manual_seed(seed)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=channels,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, num_class_embeds=11,
    )  # fmt: skip
    with torch.no_grad():
        net.conv_out.weight.normal_(std=0.05)
    return as_denoiser(net, scheduler()).eval()


def denoiser_of(kind: str, net: nn.Module | None = None) -> Denoiser:
    """A denoiser with the parametrisation `kind`, on a ToyNet in float64 unless a network is given."""
    schedulers: dict[str, Any] = {"flow": FlowMatchEulerDiscreteScheduler(shift=2.0), "edm": EDMEulerScheduler()}
    return as_denoiser(net or ToyNet().double(), schedulers.get(kind) or scheduler(kind, "linear"))
