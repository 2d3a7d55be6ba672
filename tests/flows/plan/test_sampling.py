"""The memory of stages that run frozen networks equals a calculation by hand, and counts the type of the weights."""

import pytest
import torch

from dmd.config import Params, load_params
from dmd.networks.half import halve
from dmd.teacher_training.architectures import new_unet
from flows.pipeline.presets import load_preset
from flows.plan.activations import saved_in_a_block
from flows.plan.devices import Target
from flows.plan.estimate import sampling_lines
from flows.plan.network_config import blank_teacher, blank_text_encoders, teacher_configs
from flows.plan.sampling import sampling_memory, total_bytes
from tests.helpers.params import with_values
from tests.helpers.projects import ROOT

META = torch.device("meta")
STAGES = ("encode", "baseline", "pairs", "evaluate")
CLIP, BIG_CLIP, T5 = 123_060_480, 694_659_840, 4_762_310_656
PROJECTION = 768**2


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the local hub cache look empty."""
    monkeypatch.setattr("flows.plan.network_config.try_to_load_from_cache", lambda *_, **__: None)


def of_preset(params: Params, name: str) -> dict[str, dict[str, int]]:
    configs = teacher_configs(params, ROOT, name)
    return sampling_memory(blank_teacher(params, configs, META), blank_text_encoders(params, configs), params)


def test_a_pixel_teacher_takes_its_weights_and_the_activations_of_a_block(params: Params) -> None:
    run = with_values(params, guidance={"scale": 2.0}, evaluate={"batch_size": 64, "timing_batch": 40})
    teacher = blank_teacher(run, None, META)
    weights = sum(p.numel() for p in new_unet(params.teacher, (1, 8, 8), 10).parameters())
    whole = 4 * weights + 4 * params.teacher.timesteps * 8  # buffers of the process, eight bytes each
    block = saved_in_a_block(teacher.denoiser.copy(), (1, 8, 8), 11)
    assert block > 0
    assert sampling_memory(teacher, [], run) == {
        "encode": {},
        "baseline": {"teacher": whole, "activations": 2 * 512 * block},
        "pairs": {"teacher": whole, "activations": 2 * 512 * block},
        "evaluate": {"teacher": whole, "student": whole, "activations": 80 * block},
    }
    small = with_values(run, evaluate={"batch_size": 32})  # which bounds the batch that is timed
    assert sampling_memory(teacher, [], small)["evaluate"]["activations"] == 64 * block
    none = with_values(run, pairs={"count": 0})
    assert sampling_memory(teacher, [], none)["pairs"]["activations"] == 0
    assert [line.split(",")[0] for line in sampling_lines(sampling_memory(teacher, [], run), run)] == [
        f"memory of {stage}" for stage in STAGES[1:]
    ]


def test_weights_and_activations_in_bf16_take_half(params: Params) -> None:
    half = with_values(params, **{name: {"precision": "bf16"} for name in STAGES[1:]})
    teacher = blank_teacher(params, None, META)
    whole, small = (sampling_memory(teacher, [], run) for run in (params, half))
    halve(teacher.denoiser)
    held = sum(t.nbytes for t in (*teacher.denoiser.parameters(), *teacher.denoiser.buffers()))
    for stage in STAGES[1:]:
        assert small[stage]["teacher"] == held < 0.6 * whole[stage]["teacher"]
        assert small[stage]["activations"] == whole[stage]["activations"] / 2


def test_vae_and_text_encoders_are_there_in_turn(params: Params) -> None:
    run = with_values(params, teacher={"network": "sana", "prediction_type": "flow"}, data={"size": 32})
    teacher, encoders = blank_teacher(run, None, META), blank_text_encoders(run, None)
    whole, half = (
        sampling_memory(teacher, encoders, with_values(run, encode={"precision": kind})) for kind in ("fp16", "bf16")
    )
    held = sum(t.nbytes for net in encoders for t in (*net.parameters(), *net.buffers()))
    assert whole["encode"]["text encoders"] == held > 0
    assert half["encode"]["text encoders"] == whole["encode"]["text encoders"] / 2
    assert whole["encode"]["VAE"] / 2 < half["encode"]["VAE"] < whole["encode"]["VAE"] == whole["baseline"]["VAE"]
    assert whole["evaluate"]["two VAEs"] == 2 * whole["encode"]["VAE"]
    assert total_bytes("encode", {"VAE": 3, "text encoders": 5}) == 5 and total_bytes("pairs", {"a": 3, "b": 5}) == 8


@pytest.mark.parametrize(
    ("preset", "weights"),
    [
        ("sd15", CLIP), ("sdxl", CLIP + BIG_CLIP), ("sd35_medium", CLIP + PROJECTION + BIG_CLIP + T5),
        ("flux1_dev", CLIP + T5), ("pixart_sigma", T5), ("flux2_klein", 4_022_468_096), ("z_image", 4_022_468_096),
        ("qwen_image", 8_292_166_656), ("sana_600m", 2_614_341_888),
    ],
)  # fmt: skip
def test_text_encoders_have_their_published_sizes(params: Params, empty_cache: None, preset: str, weights: int) -> None:
    changes = load_preset(ROOT, preset).changes
    hub = {key: changes[f"teacher.{key}"] for key in ("source", "hub_id", "revision")}
    run = with_values(params, teacher=hub)
    encoders = blank_text_encoders(run, teacher_configs(run, ROOT, preset))
    assert sum(p.numel() for net in encoders for p in net.parameters()) == weights


@pytest.mark.parametrize("preset", ["sdxl", "sd35_medium", "flux1_dev", "flux2_klein", "z_image"])
def test_every_stage_of_a_preset_fits_a_card_of_80_gb(empty_cache: None, preset: str) -> None:
    """A quarter is left for what is not counted: libraries, extractors, judges and the VAE's working memory."""
    run = load_params(ROOT / "params.yaml", {**load_preset(ROOT, preset).changes, "data.folder": "x"})
    sizes = of_preset(run, preset)
    assert set(sizes) == set(STAGES)
    for stage, contents in sizes.items():
        assert 0 < total_bytes(stage, contents) < 0.75 * 80 * 2**30, stage
    assert all("of 80 GiB (" in line for line in sampling_lines(sizes, run, Target("h100", 1)))


def test_flux_in_float32_does_not_fit_and_the_line_says_what_to_set(empty_cache: None) -> None:
    changes = load_preset(ROOT, "flux1_dev").changes | {"evaluate.precision": "fp32", "data.folder": "x"}
    run = load_params(ROOT / "params.yaml", changes)
    lines = {
        line.split()[2].strip(","): line for line in sampling_lines(of_preset(run, "flux1_dev"), run, Target("h100", 1))
    }
    assert "more than H100's 80 GiB: set evaluate.precision to bf16 (teacher 44 GiB" in lines["evaluate"]
    assert "of 80 GiB" in lines["baseline"] and ", then text encoders " in lines["encode"]


def test_qwen_image_is_evaluated_on_a_larger_card_alone(empty_cache: None) -> None:
    run = load_params(ROOT / "params.yaml", {**load_preset(ROOT, "qwen_image").changes, "data.folder": "x"})
    sizes = of_preset(run, "qwen_image")
    assert [s for s in STAGES if total_bytes(s, sizes[s]) > 0.75 * 80 * 2**30] == ["evaluate"]
    *others, last = sampling_lines(sizes, run, Target("h100", 1))
    assert "more than H100's 80 GiB: lower evaluate.batch_size, or use a larger GPU" in last
    assert all("of 80 GiB" in line for line in others)
