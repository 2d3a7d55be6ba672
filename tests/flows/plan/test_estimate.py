"""What a dry run says: sizes by hand, passes as training really makes them, time in proportion."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

from dmd.config import GanConfig, Params, load_params
from dmd.diffusion.denoiser import Guided
from dmd.distillation.methods import METHODS
from dmd.teacher_training.architectures import new_unet
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from flows.pipeline.changes import change_file
from flows.pipeline.presets import load_preset, make_variants
from flows.plan.architecture import PUBLISHED, Unknown, blank_teacher
from flows.plan.estimate import amount, duration, estimate, images_stored, seconds_of, time_lines
from flows.plan.memory import FusedAttention, SavedTensors, saved_bytes, train_memory
from flows.plan.rate import Rate, convolution_rate, count_operations, measure
from flows.plan.turns import ENCODER_SHARE, processes, turns_of
from tests.helpers.data import reals
from tests.helpers.networks import CPU, unet_denoiser
from tests.helpers.projects import ROOT
from tests.helpers.training import draws

META = torch.device("meta")
RATE = Rate(forward=0.001, both=0.003, how="made up")


def with_(params: Params, **groups: dict[str, Any]) -> Params:
    """params with keys of its groups replaced."""
    return params.model_copy(update={g: getattr(params, g).model_copy(update=changes) for g, changes in groups.items()})


def hub(params: Params, hub_id: str) -> Params:
    return with_(params, teacher={"source": "hub", "hub_id": hub_id, "revision": "main"})


def test_images_seen_are_those_of_every_turn(params: Params) -> None:
    turns = turns_of(params)
    seen = {n: sum(t.images for t in turns if t.network == n) for n in ("generator", "critic")}
    assert seen == {"generator": 2000 * 128 + 150 * 192, "critic": (100 + 150 * 5) * 64}


@pytest.mark.parametrize(
    ("name", "weight", "r1", "scale", "features"),
    [("dmd", 0.0, 0.0, 1.0, "innermost"), ("dmd", 0.5, 0.0, 3.0, "innermost"), ("dmd2", 0.0, 0.0, 1.0, "innermost"),
     ("dmd2", 0.25, 1.0, 2.0, "innermost"), ("dmd2", 0.0, 1.0, 1.0, "image"), ("f_distill", 0.0, 1.0, 1.0, "innermost"),
     ("f_distill", 0.0, 0.0, 1.0, "image")],
)  # fmt: skip
def test_passes_are_those_that_a_turn_really_makes(
    params: Params, name: str, weight: float, r1: float, scale: float, features: str
) -> None:
    gan = GanConfig(**{**params.method.gan.model_dump(), "r1_weight": r1, "features": features})
    given = with_(params, method={"name": name, "regression_weight": weight, "gan": gan}, guidance={"scale": scale})
    noise = torch.randn(9, 1, 8, 8)
    method = METHODS[name](given.method, 1000, Pairs(noise, noise.tanh(), torch.arange(9)), reals())
    denoiser = unet_denoiser(0).requires_grad_(False)
    teacher = Teacher(denoiser, Guided(denoiser, scale, 10) if scale > 1 else denoiser, None, (1, 8, 8), 11)
    nets = method.networks(teacher, 0)
    begun: list[int] = []
    ended: list[int] = []  # passes for features alone do not come to their end
    for net in (nets.teacher.net, nets.generator.net, nets.critic.net):
        net.register_forward_pre_hook(lambda _module, inputs: begun.append(len(inputs[0])))
        net.register_forward_hook(lambda _module, inputs, _output: ended.append(len(inputs[0])))
    expected = iter(turns_of(given))
    for phase in method.phases(given.train):
        for turn in [turn.network for turn in phase.turns]:
            begun.clear()
            ended.clear()
            rng = draws(turn=turn)
            phase.loss(turn, nets, rng.noise(1, 8, 8), rng.integers(0, 10), rng)
            assert (kind := next(expected)).network == turn
            passes = sum(ended) + ENCODER_SHARE * (sum(begun) - sum(ended))
            assert passes / 6 == kind.forwards, (phase.name, turn)
    assert next(expected, None) is None


def test_memory_of_a_small_unet_is_that_of_its_numbers(params: Params) -> None:
    """Everything that is not activations, by hand from the network as it is really made."""
    net = new_unet(params.teacher, (1, 8, 8), 10)
    weights = sum(p.numel() for p in net.parameters())
    grids = 4 * params.teacher.timesteps * 8  # of the process: alpha, sigma, prior and time, eight bytes each
    given = with_(params, train={"ema_half_lives": [1, 2]})
    found = train_memory(blank_teacher(given, Path(), META), given, turns_of(given))
    assert found.pop("activations") > 0
    assert found == {
        "teacher": 4 * weights + grids,
        "generator": 4 * weights + grids,
        "critic": 4 * weights + grids,
        "averages": 2 * (4 * weights + grids),
        "best so far": 4 * weights,
        "gradients": 4 * weights,
        "AdamW": 2 * 2 * 4 * weights,
        "pairs": 9000 * 2 * 64 * 4,
    }


def test_adapters_share_the_teachers_weights_and_alone_have_moments(params: Params) -> None:
    given = with_(params, train={"lora_rank": 2, "lora_rank_critic": 2})
    small, whole = (train_memory(blank_teacher(p, Path(), META), p, turns_of(p)) for p in (given, params))
    assert small["teacher"] == whole["teacher"]
    adapters = small["best so far"]
    grids = small["generator"] - adapters
    assert 0 < adapters < whole["best so far"] / 4 and grids == 4 * 1000 * 8
    assert small["AdamW"] == 2 * 2 * adapters and small["gradients"] == adapters


def test_processes_parts_and_precision_divide_activations(params: Params) -> None:
    def of(**train: Any) -> dict[str, int]:
        given = with_(params, train=train)
        return train_memory(blank_teacher(given, Path(), META), given, turns_of(given))

    one = of()
    assert "exchanged gradients" not in one and "weights cast" not in one
    assert of(accumulate=4)["activations"] == one["activations"] / 4
    eight = of(launcher="accelerate launch --num_processes 8 -m")
    assert (eight["activations"], eight["exchanged gradients"]) == (one["activations"] / 8, one["gradients"])
    sharded = of(launcher="accelerate launch --num_processes 8 -m", shard=True)
    for name in ("teacher", "generator", "critic", "averages", "gradients", "AdamW"):
        assert sharded[name] == pytest.approx(one[name] / 8, abs=1)
    assert sharded["average looked at"] == one["generator"] and "exchanged gradients" not in sharded
    assert of(precision="bf16")["activations"] == one["activations"] / 2
    assert of(gradient_checkpointing=True)["activations"] < one["activations"] / 2


def test_saved_activations_are_counted_once_and_without_weights() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    counter = SavedTensors(net.parameters())
    with counter:
        net(torch.zeros(2, 1, 8, 8))
    assert counter.bytes == 2 * (1 + 4 + 4) * 64 * 4  # inputs of both convolutions and of SiLU


def test_the_meta_device_counts_what_the_cpu_keeps(params: Params) -> None:
    """Within the few bytes that attention of the CPU keeps beside inputs and output."""
    counted, middle = saved_bytes(blank_teacher(params, Path(), META).denoiser.requires_grad_(True), (1, 8, 8), 11)
    real = blank_teacher(params, Path(), CPU).denoiser.requires_grad_(True)
    index = torch.zeros(1, dtype=torch.long)
    counter = SavedTensors(real.parameters())
    with counter:
        real.predict(torch.zeros(1, 1, 8, 8), index, index)
    assert counted == pytest.approx(counter.bytes, rel=0.03) and 0 < middle < counted


def test_fused_attention_keeps_no_matrix_of_weights() -> None:
    q, k, v = (torch.zeros(1, 2, 100, 8, device="meta", requires_grad=True) for _ in range(3))
    counter = SavedTensors([])
    with counter, FusedAttention():
        out = nn.functional.scaled_dot_product_attention(q, k, value=v)
    assert out.shape == (1, 2, 100, 8) and counter.bytes == 4 * 1600 * 4


@pytest.mark.parametrize(
    ("hub_id", "parameters", "shape"),
    [
        ("google/ddpm-cifar10-32", 35_746_307, (3, 32, 32)),
        ("edm-imagenet-64x64-cond-adm.pkl", 295_900_035, (3, 64, 64)),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", 859_520_964, (4, 64, 64)),
        ("stabilityai/stable-diffusion-xl-base-1.0", 2_567_463_684, (4, 128, 128)),
    ],
)
def test_published_networks_have_their_published_sizes(
    params: Params, hub_id: str, parameters: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.plan.architecture.try_to_load_from_cache", lambda *_, **__: None)
    teacher = blank_teacher(hub(params, hub_id), Path(), META)
    assert sum(p.numel() for p in teacher.denoiser.parameters()) == parameters and teacher.shape == shape
    if shape[0] == 4:
        assert teacher.codec.image_shape(teacher.shape) == (3, shape[1] * 8, shape[2] * 8)
        assert sum(p.numel() for p in teacher.codec.parameters()) == 83_653_863
    assert set(PUBLISHED) >= {hub_id}


def test_a_folder_is_known_by_its_configuration_and_another_hub_id_not(params: Params, tmp_path: Path) -> None:
    net = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4,
                      down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    net.save_config(tmp_path / "own" / "unet")
    given = with_(params, teacher={"source": "folder", "folder": "own"})
    found = blank_teacher(given, tmp_path, META)
    assert sum(p.numel() for p in found.denoiser.parameters()) == net.num_parameters()
    assert (found.shape, found.classes) == ((1, 8, 8), 0)
    for unknown, why in ((with_(given, teacher={"folder": "none"}), "holds no unet"), (hub(params, "a/b"), "a/b has")):
        with pytest.raises(Unknown, match=why):
            blank_teacher(unknown, tmp_path, META)
        below = estimate(unknown, tmp_path, {"train"}, {}).below
        assert len(below) == 1 and below[0].startswith("memory and time: unknown") and why in below[0]


def test_a_flat_folder_is_known_by_its_configuration_too(params: Params, tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 lies on the hub."""
    UNet2DModel(sample_size=16, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                up_block_types=("UpBlock2D",) * 2).save_config(tmp_path / "flat")  # fmt: skip
    given = with_(params, teacher={"source": "folder", "folder": "flat"})
    assert blank_teacher(given, tmp_path, META).shape == (3, 16, 16)
    (tmp_path / "flat/config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(Unknown, match="holds no unet"):
        blank_teacher(given, tmp_path, META)


def test_a_folder_that_is_yet_to_be_given_is_known_where_its_network_is_published(
    params: Params, tmp_path: Path
) -> None:
    given = with_(params, teacher={"source": "folder"}, data={"size": 64, "channels": 3})
    needs = load_preset(ROOT, "imagenet64").needs
    found = estimate(given, tmp_path, set(), needs)
    assert "295,900,035 parameters" in found.stages["teacher"] and found.below[0].startswith("memory of train")
    other = estimate(given, tmp_path, set(), {"teacher.folder": "a teacher"})
    assert other.below == ["memory and time: unknown, teacher.folder is not given"]


def test_doubling_the_turns_doubles_the_time(params: Params) -> None:
    warm = params.train.warm_start.model_copy(update={"turns": 0, "critic_turns": 0})
    once = with_(params, train={"warm_start": warm})
    twice = with_(once, train={"generator_turns": 2 * once.train.generator_turns})
    took = [seconds_of(p, turns_of(p), RATE) for p in (once, twice)]
    assert took[1]["train"] == 2 * took[0]["train"]
    # A critic turn: generator forward, critic forward and backward; a generator turn: that and the two scores.
    assert took[0]["train"] == pytest.approx(150 * (5 * 64 * 0.004 + 192 * 0.005))
    assert took[0]["baseline"] == took[1]["baseline"] == pytest.approx(1797 * 3 * 185 * 0.001)
    assert took[0]["teacher"] == pytest.approx(2000 * 128 * 0.003)
    guided = with_(once, guidance={"scale": 2.0})
    assert seconds_of(guided, turns_of(guided), RATE)["pairs"] == 2 * took[0]["pairs"]


def test_processes_divide_the_time_and_not_the_cost(params: Params) -> None:
    shared = with_(params, train={"launcher": "accelerate launch --num_processes 8 -m"})
    seconds = {"train": 3600.0, "evaluate": 3600.0, "teacher": 10.0}
    lines = time_lines(seconds, {"train", "evaluate"}, shared, RATE)
    assert lines[0] == "time: 2 h; cost: 9 CPU hours" and "train 60 min by 8 processes" in lines[1]
    assert "teacher" not in lines[1]
    alone, eight = (seconds_of(p, turns_of(p), RATE) for p in (params, shared))
    assert eight == alone | {"train": alone["train"] / 8}


@pytest.mark.parametrize(
    ("launcher", "count"),
    [("python -m", 1), ("accelerate launch -m", 1), ("accelerate launch --num_processes 8 -m", 8),
     ("accelerate launch --multi_gpu --num-processes=16 -m", 16)],
)  # fmt: skip
def test_processes_of_a_launcher(launcher: str, count: int) -> None:
    assert processes(launcher) == count


def test_a_rate_is_measured_on_the_threads_of_a_stage_and_by_operations_where_that_takes_long(
    params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    made: list[torch.device] = []

    def blank(device: torch.device) -> Teacher:
        made.append(device)
        return blank_teacher(params, Path(), device)

    runtime = params.runtime.model_copy(update={"device": "cpu"})
    rate = measure(blank, 64, "fp32", runtime)
    assert 0 < rate.forward <= rate.both < 1 and "1 CPU thread" in rate.how and made == [META, CPU]
    monkeypatch.setattr("flows.plan.rate.LARGE", 1.0)
    counted = measure(blank, 64, "fp32", runtime)
    assert made[2:] == [META] and counted.both == pytest.approx(3 * counted.forward) and "GFLOP" in counted.how
    assert torch.get_num_threads() == threads and convolution_rate(CPU, "fp32") > 0


def test_operations_are_those_of_its_layers(params: Params) -> None:
    """One convolution: two per weight and pixel."""
    teacher = blank_teacher(params, Path(), META)
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False, device="meta")

    class Alone(nn.Module):
        def forward(self, x: Any, _t: Any, class_labels: Any) -> Any:
            return type("Out", (), {"sample": conv(x)})

    denoiser = type(teacher.denoiser)(Alone(), teacher.denoiser.process, teacher.denoiser.parametrisation)
    denoiser.conv = conv
    assert count_operations(replace(teacher, denoiser=denoiser)) == 2 * 9 * 64


def test_images_are_counted_by_the_splits_that_a_source_has(params: Params) -> None:
    def of(**data: Any) -> int | None:
        return images_stored(with_(params, data=data), Path("nowhere"))

    assert of() == 1797
    assert of(source="cifar10", validation=5000, test="all") == 60_000
    assert of(source="mnist", validation=5000, test=1000) == 61_000
    assert of(source="folder") is None


def test_units() -> None:
    assert [amount(v) for v in (12, 2048, 3.5 * 2**20, 2**40)] == ["12 B", "2 KiB", "3.5 MiB", "1 TiB"]
    assert [duration(v) for v in (0.0012, 30, 600, 7200, 86400 * 3, 86400 * 3652.5)] == [
        "1.2 ms", "30 s", "10 min", "2 h", "3 days", "10 years",
    ]  # fmt: skip


def test_the_readme_shows_what_a_dry_run_says(tmp_path: Path) -> None:
    """Apart from time and rate, which are a machine's."""
    (variant,) = make_variants(ROOT, "cifar10", {}, [])
    shutil.copy(ROOT / "params.yaml", tmp_path)
    change_file(variant.fill(ROOT), tmp_path / "params.yaml")
    found = estimate(load_params(tmp_path / "params.yaml"), tmp_path, set(), {})
    command = "$ python -m flows.distill --preset cifar10 --dry-run\n"
    shown = (ROOT / "README.md").read_text().partition(command)[2].partition("```")[0].splitlines()
    assert shown[0] == f"{variant.experiment} ({len(variant.changes)} changes to params.yaml):"
    stages, below = shown[1 : 1 + len(found.stages)], shown[1 + len(found.stages) :]
    assert {line.split()[0]: line.partition("cache  ")[2] for line in stages} == found.stages
    memory = [f"  {line}" for line in found.below if not line.startswith("time")]
    assert below[: len(memory)] == memory and below[len(memory)].startswith("  time: ")
