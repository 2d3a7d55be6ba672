"""Teachers are built from configurations of presets, of the hub cache and of folders; others are unknown."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from dmd.config import Params
from flows.pipeline.presets import load_preset
from flows.plan.estimate import estimate
from flows.plan.network_config import Unknown, blank_teacher, teacher_configs
from flows.workspace.folders import PRESETS
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT

META = torch.device("meta")


def hub(params: Params, hub_id: str, revision: str) -> Params:
    """Parameters with a teacher from the hub."""
    return with_values(params, teacher={"source": "hub", "hub_id": hub_id, "revision": revision})


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the local hub cache look empty."""
    monkeypatch.setattr("flows.plan.network_config.try_to_load_from_cache", lambda *_, **__: None)


@pytest.mark.parametrize(
    ("preset", "parameters", "shape"),
    [
        ("cifar10", 35_746_307, (3, 32, 32)),
        ("imagenet64", 295_900_035, (3, 64, 64)),
        ("sd15", 859_520_964, (4, 64, 64)),
        ("sdxl", 2_567_463_684, (4, 128, 128)),
    ],
)
def test_published_networks_have_their_published_sizes(
    params: Params, preset: str, parameters: int, shape: tuple[int, ...], empty_cache: None
) -> None:
    changes = load_preset(ROOT, preset).changes
    missing = () if preset != "imagenet64" else {"teacher.folder"}
    run = params if missing else hub(params, str(changes["teacher.hub_id"]), str(changes["teacher.revision"]))
    teacher = blank_teacher(run, teacher_configs(run, ROOT, preset, missing), META)
    assert sum(p.numel() for p in teacher.denoiser.parameters()) == parameters and teacher.shape == shape
    if shape[0] == 4:
        assert teacher.codec.image_shape(teacher.shape) == (3, shape[1] * 8, shape[2] * 8)
        assert sum(p.numel() for p in teacher.codec.parameters()) == 83_653_863


@pytest.mark.parametrize(
    ("preset", "billions", "shape"),
    [
        ("flux2_klein", 3.88, (128, 64, 64)),
        ("qwen_image", 20, (16, 128, 128)),
        ("z_image", 6, (16, 128, 128)),
        ("sana_600m", 0.59, (32, 32, 32)),
        ("pixart_sigma", 0.6, (4, 128, 128)),
    ],
)
def test_networks_whose_configs_were_not_read_on_the_hub_have_the_size_in_their_name(
    params: Params, preset: str, billions: float, shape: tuple[int, ...], empty_cache: None
) -> None:
    changes = load_preset(ROOT, preset).changes
    run = hub(params, str(changes["teacher.hub_id"]), str(changes["teacher.revision"]))
    run = with_values(run, data={"size": 1024})
    teacher = blank_teacher(run, teacher_configs(run, ROOT, preset), META)
    assert sum(p.numel() for p in teacher.denoiser.parameters()) / 1e9 == pytest.approx(billions, rel=0.04)
    assert teacher.shape == shape and teacher.codec.image_shape(teacher.shape) == (3, 1024, 1024)


def test_each_published_configuration_is_that_of_its_preset_and_names_its_source() -> None:
    files = sorted((ROOT / PRESETS).glob("*.teacher.json"))
    assert [file.name.removesuffix(".teacher.json") for file in files] == [
        *("cifar10", "flux1_dev", "flux2_klein", "imagenet64", "pixart_sigma", "qwen_image", "sana_600m", "sd15"),
        *("sd35_medium", "sdxl", "z_image"),
    ]
    for file in files:
        configs, changes = json.loads(file.read_text()), load_preset(ROOT, file.name.partition(".")[0]).changes
        pinned = changes.get("teacher.hub_id"), changes.get("teacher.revision")
        assert (configs["hub_id"], configs["revision"]) == pinned
        assert (configs["hub_id"] or "edm-imagenet-64x64-cond-adm.pkl") in configs["source"]


def test_the_hub_cache_comes_before_the_configuration_of_a_preset(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = load_preset(ROOT, "cifar10").changes
    run = hub(params, str(changes["teacher.hub_id"]), str(changes["teacher.revision"]))
    UNet2DModel(sample_size=16, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2).save_config(tmp_path / "unet")  # fmt: skip
    requests: list[object] = []

    def look_up(hub_id: str, name: str, revision: str) -> str:
        requests.append((hub_id, revision))
        return str(tmp_path / name)

    monkeypatch.setattr("flows.plan.network_config.try_to_load_from_cache", look_up)
    assert blank_teacher(run, teacher_configs(run, ROOT, "cifar10"), META).shape == (3, 16, 16)
    assert requests == [(changes["teacher.hub_id"], changes["teacher.revision"])]


def test_the_configuration_of_a_preset_is_not_used_for_another_hub_id_or_revision(
    params: Params, empty_cache: None
) -> None:
    changes = load_preset(ROOT, "cifar10").changes
    pinned = str(changes["teacher.hub_id"]), str(changes["teacher.revision"])
    for hub_id, revision in (("a/b", pinned[1]), (pinned[0], "main")):
        run = hub(params, hub_id, revision)
        with pytest.raises(Unknown, match=f"the local hub cache has no {hub_id} at revision {revision}"):
            teacher_configs(run, ROOT, "cifar10")


def test_a_folder_has_a_configuration_and_an_uncached_hub_id_is_unknown(params: Params, tmp_path: Path) -> None:
    net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
                      down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    net.save_config(tmp_path / "own" / "unet")
    run = with_values(params, teacher={"source": "folder", "folder": "own"})
    teacher = blank_teacher(run, teacher_configs(run, tmp_path), META)
    assert sum(p.numel() for p in teacher.denoiser.parameters()) == net.num_parameters()
    assert (teacher.shape, teacher.conditions) == ((1, 8, 8), 0)
    for unknown, why in (
        (with_values(run, teacher={"folder": "none"}), "has no unet"),
        (hub(params, "a/b", "main"), "cache has no a/b"),
    ):
        with pytest.raises(Unknown, match=why):
            teacher_configs(unknown, tmp_path)
        (line,) = estimate(unknown, tmp_path, {"train"}, {}).summary
        assert line.startswith("memory and time: unknown") and why in line


def test_a_flat_folder_has_a_configuration_too(params: Params, tmp_path: Path) -> None:
    """The hub stores google/ddpm-cifar10-32 as a flat folder."""
    UNet2DModel(sample_size=16, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2).save_config(tmp_path / "flat")  # fmt: skip
    run = with_values(params, teacher={"source": "folder", "folder": "flat"})
    assert blank_teacher(run, teacher_configs(run, tmp_path), META).shape == (3, 16, 16)
    (tmp_path / "flat/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(Unknown, match="has no unet"):
        teacher_configs(run, tmp_path)


def test_the_configuration_of_a_preset_replaces_a_folder_that_is_not_set(params: Params, tmp_path: Path) -> None:
    run = with_values(params, teacher={"source": "folder"}, data={"size": 64, "channels": 3})
    needs = load_preset(ROOT, "imagenet64").needs
    known = estimate(run, ROOT, set(), needs, "imagenet64")
    assert "295,900,035 parameters" in known.stages["teacher"] and known.summary[0].startswith("memory of train")
    for root, preset in ((ROOT, None), (tmp_path, "imagenet64")):
        unknown = estimate(run, root, set(), {"teacher.folder": "a teacher"}, preset)
        assert unknown.summary == ["memory and time: unknown, teacher.folder is not set"]
