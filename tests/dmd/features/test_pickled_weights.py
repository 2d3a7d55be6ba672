"""Weights in a pickle are refused before they are read, wherever a network comes from a folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from dmd.errors import EvaluatorError, FeatureNetworkError
from dmd.features.load import load_frozen
from evaluation.models.clip import load_clip
from tests.helpers.networks import CPU

VIT = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def dinov2(folder: Path) -> Callable[[], object]:
    Dinov2Model(Dinov2Config(**VIT, patch_size=14, image_size=56)).save_pretrained(folder)
    return lambda: load_frozen(f"dinov2:{folder}", CPU)


def clip_config() -> CLIPConfig:
    tower = {**VIT, "intermediate_size": 16}
    return CLIPConfig(text_config=tower | {"vocab_size": 20}, vision_config=tower | {"image_size": 32, "patch_size": 8})


def clip(folder: Path) -> Callable[[], object]:
    CLIPModel(clip_config()).save_pretrained(folder)
    return lambda: load_frozen(f"clip:{folder}", CPU)


def evaluator(folder: Path) -> Callable[[], object]:
    CLIPModel(clip_config()).save_pretrained(folder)
    return lambda: load_clip(folder, CPU)


def timm(folder: Path) -> Callable[[], object]:
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": {}}))
    return lambda: load_frozen(f"timm:{folder}", CPU)


@pytest.mark.parametrize("kind", [dinov2, clip, evaluator, timm])
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(kind: Callable, tmp_path: Path) -> None:
    load = kind(tmp_path / "folder")
    (tmp_path / "folder/model.safetensors").unlink()
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "folder/pytorch_model.bin")
    with pytest.raises((FeatureNetworkError, EvaluatorError)):
        load()
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_torchvision_with_a_payload_does_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Payload(tmp_path / "ran")}, tmp_path / "resnet18.pth")
    with pytest.raises(FeatureNetworkError):
        load_frozen(f"torchvision.resnet18:{tmp_path / 'resnet18.pth'}", CPU)
    assert not (tmp_path / "ran").exists()
