"""Feature networks trained elsewhere on other data: Inception, CLIP, DINOv2 and EfficientNet-Lite0.

Each turns uint8 images [B, C, H, W] into features [B, D]; grey images become RGB.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPModel

from dmd.features.efficientnet import MEAN, STD, load_efficientnet
from dmd.features.preparation import IMAGENET_MEAN, IMAGENET_STD
from dmd.features.vision_transformers import load_dinov2
from evaluation.models.clip import ClipExtractor, load_clip
from evaluation.models.extractors import Extractor


def to_rgb(images: Tensor) -> Tensor:
    """uint8 [B, 1 or 3, H, W] -> float32 [B, 3, H, W] in 0..255."""
    return images.expand(-1, 3, -1, -1).float()


def resize_and_normalise(images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images -> normalised [B, 3, size, size], bicubic with antialiasing."""
    x = F.interpolate(to_rgb(images) / 255, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    centre, spread = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mean, std))
    return (x - centre) / spread


class Inception:
    """Inception-v3 in TorchScript by clean-fid's protocol: PIL's bicubic on float channels to 299, features [B, 2048].

    The Fréchet distance of these features is the FID of the literature.
    """

    resize = "clean-fid: PIL bicubic on float channels, 299x299"

    def __init__(self, file: Path, device: torch.device) -> None:
        from cleanfid.inception_torchscript import InceptionV3W  # imports torchvision, which most extractors do without
        from cleanfid.resize import build_resizer

        self.device, self.resizer = device, build_resizer("clean")
        # clean-fid takes the folder and adds the name INCEPTION_FILE; with download=False it fetches nothing.
        self.net = InceptionV3W(str(file.parent), download=False).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        big = np.stack([self.resizer(x) for x in to_rgb(images).permute(0, 2, 3, 1).numpy()])
        return self.net(torch.from_numpy(big).permute(0, 3, 1, 2).to(self.device)).float().cpu()


class CleanClip:
    """OpenAI's ViT-B/32 by clean-fid's protocol: PIL resizes bytes and crops a square, projections [B, 512].

    The Fréchet distance of these features is clean-fid's CLIP-FID.
    """

    name, resize = "clip_vit_b_32", "clean-fid: PIL bicubic on bytes, 224x224, centre"

    def __init__(self, clip: ClipExtractor) -> None:
        self.clip = clip

    def __call__(self, images: Tensor) -> Tensor:
        pictures = [Image.fromarray(x) for x in images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()]
        return self.clip(torch.stack([torch.from_numpy(self._crop(p)).permute(2, 0, 1) for p in pictures]))

    def _crop(self, picture: Image.Image) -> np.ndarray:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

        size = self.clip.size
        return np.array(Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])(picture))

    @staticmethod
    def fits(model: CLIPModel) -> bool:
        """Whether shape and activation are those of OpenAI's ViT-B/32; later models use another activation."""
        vision = model.vision_model.config
        shape = (vision.patch_size, vision.hidden_size, vision.num_hidden_layers, model.config.projection_dim)
        return shape == (32, 768, 12, 512) and vision.hidden_act == "quick_gelu"


class Dinov2:
    """DINOv2 at 224 pixels: the class token [B, D] after the last norm."""

    resize = "bicubic with antialiasing, 224x224"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.device = device
        self.net = load_dinov2(folder).to(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = resize_and_normalise(images, 224, IMAGENET_MEAN, IMAGENET_STD).to(self.device)
        return self.net(pixel_values=x).pooler_output.cpu()


class EfficientNetLite0:
    """EfficientNet-Lite0, trained on ImageNet, at 224 pixels: pooled features [B, 1280].

    Images of up to 64 pixels are resized to 128, not 224: this loses no detail and takes a third of the time.
    """

    resize = "bicubic with antialiasing, 224x224; of images of up to 64x64, 128x128"

    def __init__(self, file: Path, device: torch.device) -> None:
        self.device = device
        self.net = load_efficientnet(0, file).to(device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        part = 16 if self.device.type == "cpu" else len(images)  # activations of more images exceed the caches of a CPU
        return torch.cat([self._pool(images) for images in images.split(part)])

    def _pool(self, images: Tensor) -> Tensor:
        side = 128 if max(images.shape[-2:]) <= 64 else 224
        x = resize_and_normalise(images, side, (MEAN,) * 3, (STD,) * 3).to(self.device)
        return self.net.extract_features(x.to(memory_format=torch.channels_last)).mean(dim=(2, 3)).cpu()


def load_clip_network(folder: Path, device: torch.device) -> Extractor:
    """CLIP by clean-fid's protocol if it is OpenAI's ViT-B/32, otherwise with its own resize."""
    clip = load_clip(folder, device)
    return CleanClip(clip) if CleanClip.fits(clip.model) else clip


class NetworkLoader(Protocol):
    """Load a network from the path of its weights."""

    def __call__(self, path: Path, device: torch.device, /) -> Extractor: ...


NETWORKS: dict[str, NetworkLoader] = {
    "inception": Inception,
    "clip": load_clip_network,
    "dinov2": Dinov2,
    "efficientnet_lite0": EfficientNetLite0,
}
