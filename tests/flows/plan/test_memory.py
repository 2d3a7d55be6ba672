"""Estimated memory of stage `train` equals a calculation by hand, and the tensors that autograd keeps on the CPU."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dmd.config import Params
from dmd.distillation.cost import turn_costs
from dmd.distillation.parallel.sharding import blocks_of
from dmd.features.load import load_frozen
from dmd.networks.half import halve
from dmd.teacher_training.architectures import new_unet
from flows.plan.activations import FusedAttention, SavedTensors, saved_bytes
from flows.plan.memory import count_memory, train_memory
from flows.plan.network_config import blank_teacher
from tests.helpers.networks import CPU
from tests.helpers.params import with_values

META = torch.device("meta")


def test_memory_of_a_small_unet_equals_a_calculation_by_hand(params: Params) -> None:
    """Everything except activations is calculated from the actual network."""
    net = new_unet(params.teacher, (1, 8, 8), 10)
    weights = sum(p.numel() for p in net.parameters())
    grids = 4 * params.teacher.timesteps * 8  # buffers of the process: alpha, sigma, prior and time, eight bytes each
    run = with_values(params, train={"ema_half_lives": [1, 2]})
    memory = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    assert memory.pop("activations") > 0
    assert memory == {
        "teacher": 4 * weights + grids,
        "generator": 4 * weights + grids,
        "critic": 4 * weights + grids,
        "averages": 2 * (4 * weights + grids),
        "best so far": 4 * weights,
        "gradients": 4 * weights,
        "AdamW": 2 * 2 * 4 * weights,
        "pairs": 9000 * 2 * 64 * 4,
    }


def test_a_phase_from_the_best_generator_needs_copies_of_every_network(params: Params) -> None:
    """Until that phase, critic and averages of the kept turn stay in memory beside the generator."""
    gan = params.method.gan.model_copy(update={"from_turn": 5})
    run = with_values(params, method={"name": "dmd2", "gan": gan}, train={"ema_half_lives": [1, 2]})
    memory = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    weights = sum(p.numel() for p in new_unet(params.teacher, (1, 8, 8), 10).parameters())
    trained = memory["AdamW"] // (2 * 4)  # generator, critic and heads
    assert memory["best so far"] == 4 * (trained + 2 * weights)


def test_a_discriminator_on_frozen_trunks_is_counted_and_gdd_has_no_critic(params: Params) -> None:
    gan = params.method.gan.model_copy(update={"trunks": ["efficientnet_lite1"]})
    run = with_values(params, method={"name": "gdd", "gan": gan})
    sizes = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    plain = train_memory(blank_teacher(params, None, META), params, turn_costs(params))
    assert sizes["critic"] == 0 and sizes["discriminator"] > 0
    assert sizes["AdamW"] == plain["AdamW"] // 2 + 2 * sizes["discriminator"]


def test_adapters_share_the_teachers_weights_and_have_the_only_moments(params: Params) -> None:
    run = with_values(params, train={"lora_rank": 2, "lora_rank_critic": 2})
    small, whole = (train_memory(blank_teacher(p, None, META), p, turn_costs(p)) for p in (run, params))
    assert small["teacher"] == whole["teacher"]
    adapters = small["best so far"]
    grids = small["generator"] - adapters
    assert 0 < adapters < whole["best so far"] / 4 and grids == 4 * 1000 * 8
    assert small["AdamW"] == 2 * 2 * adapters and small["gradients"] == adapters


def test_activations_of_networks_that_train_different_weights_are_counted_apart(params: Params) -> None:
    """A critic that trains all weights keeps other tensors than a generator with adapters."""
    unequal = with_values(params, train={"lora_rank": 2, "lora_rank_critic": 0, "generator_turns": 1})
    equal = with_values(params, train={"lora_rank": 2, "lora_rank_critic": 2, "generator_turns": 1})
    generator, critic = (count_saved(unequal)[name][0] for name in ("generator", "critic"))
    assert generator != critic
    assert (
        count_saved(equal)["critic"] == count_saved(equal)["generator"] == (generator, count_saved(equal)["critic"][1])
    )


def count_saved(params: Params) -> Mapping[str, tuple[int, int]]:
    """Activations of an image by network."""
    return count_memory(blank_teacher(params, None, META), params, turn_costs(params)).saved


def test_frozen_weights_are_cast_for_each_use_if_their_layers_are_checkpointed(params: Params) -> None:
    def cast(**train: Any) -> int:
        run = with_values(params, train={"precision": "bf16", **train})
        return train_memory(blank_teacher(run, None, META), run, turn_costs(run))["cast weights"]

    adapters = {"lora_rank": 2, "lora_rank_critic": 2}
    assert cast() == cast(gradient_checkpointing=True)
    run = with_values(params, train=adapters)
    sizes = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    assert cast(**adapters, gradient_checkpointing=True) == 2 * 2 * sizes["best so far"] // 4
    assert cast(**adapters) > cast()


def test_frozen_weights_in_bf16_are_half_as_large_and_need_no_cast(params: Params) -> None:
    adapters = {"lora_rank": 2, "lora_rank_critic": 2, "precision": "bf16"}
    runs = [with_values(params, train={**adapters, "frozen_precision": kind}) for kind in ("fp32", "bf16")]
    whole, half = (train_memory(blank_teacher(run, None, META), run, turn_costs(run)) for run in runs)
    teacher = blank_teacher(params, None, META).denoiser
    halve(teacher)
    held = sum(t.nbytes for t in (*teacher.parameters(), *teacher.buffers()))
    assert half["teacher"] == held < 0.6 * whole["teacher"]
    assert half["cast weights"] == 2 * 2 * half["best so far"] // 4 < whole["cast weights"]
    assert half["activations"] == whole["activations"]


def test_weights_of_int8_take_a_byte_each_and_five_bytes_for_each_row(params: Params) -> None:
    run = with_values(params, train={"frozen_precision": "int8"})
    whole, small = (train_memory(blank_teacher(p, None, META), p, turn_costs(p)) for p in (params, run))
    linear = [m.weight for m in blank_teacher(params, None, META).denoiser.modules() if isinstance(m, nn.Linear)]
    assert whole["teacher"] - small["teacher"] == sum(3 * w.numel() - 5 * len(w) for w in linear) > 0
    assert small["generator"] == whole["generator"] and small["cast weights"] == 0


def test_an_offloaded_teacher_leaves_two_layers_and_its_buffers(params: Params) -> None:
    run = with_values(params, train={"offload": "teacher"})
    whole, away = (train_memory(blank_teacher(p, None, META), p, turn_costs(p)) for p in (params, run))
    teacher = blank_teacher(params, None, META).denoiser
    largest = max(sum(p.nbytes for p in m.parameters(recurse=False)) for m in teacher.modules())
    assert away["teacher"] == 2 * largest + sum(t.nbytes for t in teacher.buffers()) < whole["teacher"] / 2
    assert {k: v for k, v in away.items() if k != "teacher"} == {k: v for k, v in whole.items() if k != "teacher"}


def test_weights_that_adapters_share_stay_whole_on_every_gpu(params: Params) -> None:
    run = with_values(params, train={"lora_rank": 2, "lora_rank_critic": 2})
    shared = with_values(run, train={"launcher": "accelerate", "processes": 2, "shard": "full"})
    one, two = (train_memory(blank_teacher(p, None, META), p, turn_costs(p)) for p in (run, shared))
    assert two["teacher"] == one["teacher"] and two["AdamW"] == one["AdamW"] / 2
    assert two["gathered blocks"] < one["teacher"] / 4


def test_trunks_their_activations_and_statistics_of_features_are_counted(params: Params) -> None:
    gan = params.method.gan.model_copy(update={"trunks": ["efficientnet_lite1"], "trunk_side": 64})
    run = with_values(params, method={"name": "gdd", "gan": gan})
    sizes = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    net = load_frozen("efficientnet_lite1", CPU, 64)
    assert sizes["trunks"] == sum(t.nbytes for t in (*net.parameters(), *net.buffers()))
    own = saved_bytes(blank_teacher(params, None, META).denoiser.requires_grad_(True), (1, 8, 8), 11)[0]
    x, counter = torch.zeros(1, 1, 8, 8, requires_grad=True), SavedTensors(net.parameters())
    with counter:
        net(x)
    images = run.train.generator_batch_size
    assert sizes["activations"] > images * (own + 0.95 * counter.bytes)
    moments = params.method.moments.model_copy(update={"networks": ["efficientnet_lite1"]})
    run = with_values(params, method={"name": "fd_loss", "moments": moments})
    sizes = train_memory(blank_teacher(run, None, META), run, turn_costs(run))
    width = load_frozen("efficientnet_lite1", CPU)(torch.zeros(1, 1, 8, 8))[-1].shape[1]
    assert sizes["statistics"] == 8 * (2 * width**2 + 2 * width + 1)


@pytest.mark.parametrize("checkpointed", [True, False])
def test_autograd_keeps_the_cast_of_a_frozen_weight_only_without_checkpointing(checkpointed: bool) -> None:
    """PyTorch itself behaves as the count of cast weights assumes."""
    layer, casts = nn.Linear(13, 13, bias=False).requires_grad_(False), []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        casts.extend([tensor] * (tensor.shape == layer.weight.shape and tensor.dtype == torch.bfloat16))
        return tensor

    x = torch.randn(4, 13, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), torch.autocast("cpu", torch.bfloat16):
        checkpoint(layer, x, use_reentrant=False) if checkpointed else layer(x)
    assert len(casts) == (0 if checkpointed else 1)


def test_processes_parts_and_precision_divide_activations(params: Params) -> None:
    def of(**train: Any) -> dict[str, int]:
        run = with_values(params, train=train)
        return train_memory(blank_teacher(run, None, META), run, turn_costs(run))

    one = of()
    assert "gathered blocks" not in one and "cast weights" not in one
    assert of(accumulate=4)["activations"] == one["activations"] / 4
    eight = of(launcher="accelerate", processes=8)
    assert eight["activations"] == one["activations"] / 8 and eight["generator"] == one["generator"]
    net = new_unet(params.teacher, (1, 8, 8), 10)
    blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(net)]
    outside = 4 * (sum(p.numel() for p in net.parameters()) - sum(blocks))
    two = 2 * 4 * max(blocks)
    assert eight["gathered blocks"] == 2 * outside + two, "of generator and critic; the teacher's stay whole"
    sharded = of(launcher="accelerate", processes=8, shard="full")
    assert sharded["gathered blocks"] == 4 * outside + two, "of the average, too, which FSDP lays out"
    hybrid = of(launcher="accelerate", processes=8, shard=4)
    assert hybrid["AdamW"] == pytest.approx(2 * sharded["AdamW"], abs=2)
    grids = 4 * params.teacher.timesteps * 8  # buffers, which every process holds whole
    for name in ("teacher", "generator", "critic", "averages"):
        assert sharded[name] == pytest.approx((one[name] - grids) / 8 + grids, abs=1)
    for name in ("gradients", "AdamW"):
        assert sharded[name] == pytest.approx(one[name] / 8, abs=1)
    assert sharded["gathered average"] == one["generator"]
    assert of(precision="bf16")["activations"] == one["activations"] / 2
    assert of(gradient_checkpointing=True)["activations"] < one["activations"], (
        "the inputs of all blocks, and one block"
    )


def test_saved_activations_are_counted_once_and_without_weights() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 1, 3, padding=1))
    counter = SavedTensors(net.parameters())
    with counter:
        net(torch.zeros(2, 1, 8, 8))
    assert counter.bytes == 2 * (1 + 4 + 4) * 64 * 4  # inputs of both convolutions and of SiLU


def test_the_meta_device_counts_what_the_cpu_keeps(params: Params) -> None:
    """Both counts agree within 3 %, since attention on the CPU keeps a few more bytes than inputs and output."""
    counted, middle = saved_bytes(blank_teacher(params, None, META).denoiser.requires_grad_(True), (1, 8, 8), 11)
    real = blank_teacher(params, None, CPU).denoiser.requires_grad_(True)
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
