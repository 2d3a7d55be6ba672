"""Runs the backward passes of a turn whose batch is divided over processes and parts.

A loss that compares all samples of a batch has no value on a part. It is computed on values of all samples, gathered
without gradients; then each part runs again, and its values get the gradient of that loss (GradCache, Gao et al. 2021).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.amp import GradScaler

from dmd.diffusion.denoiser import Cond
from dmd.distillation.networks import Networks
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.phases import BatchLoss, Phase, Turn, Values
from dmd.training.optim import backward
from dmd.training.random_source import RandomSource

Losses = dict[str, Tensor]
BeginPart = Callable[[bool], None]  # called before each part, with whether it is the last one
DrawPart = Callable[[range], tuple[Tensor, Cond, RandomSource]]  # positions of samples -> z, cond and random source


def backward_turn(
    phase: Phase,
    turn: Turn,
    nets: Networks,
    draw: DrawPart,
    parts: list[range],
    workers: Workers,
    scaler: GradScaler,
    begin_part: BeginPart,
) -> tuple[list[Losses], Values]:
    """Add the gradients of a turn on the parts of this process to those of the networks.

    They are averaged over the processes after the last part. Returns the numbers of each part, and the values of the
    whole batch, without gradients, if the loss compares them.
    """
    if phase.batch_loss is not None and turn.network == "generator":
        return _compared(phase.batch_loss, turn.name, nets, draw, parts, workers, scaler, begin_part)
    numbers = []
    for samples in parts:
        begin_part(samples is parts[-1])
        z, cond, rng = draw(samples)
        with workers.accelerator.autocast():
            losses = phase.loss(turn.name, nets, z, cond, rng)
        backward(losses["total"] / len(parts), scaler)
        numbers.append({name: value.detach() for name, value in losses.items()})
    if turn.network == "discriminator":  # each process holds its heads whole, so that FSDP averages no gradient
        heads = nets.trained_in(turn.network).parameters()
        workers.average([p.grad for p in heads if p.grad is not None])
    return numbers, {}


def _compared(
    loss: BatchLoss,
    name: str,
    nets: Networks,
    draw: DrawPart,
    parts: list[range],
    workers: Workers,
    scaler: GradScaler,
    begin_part: BeginPart,
) -> tuple[list[Losses], Values]:
    """Add the gradients of a loss on all samples of a batch. A batch in one part needs no second pass."""

    def run(samples: range) -> tuple[Losses, Values]:
        z, cond, rng = draw(samples)
        with workers.accelerator.autocast():
            return loss.part(name, nets, z, cond, rng)

    if workers.shares == 1:
        own, values = run(parts[0])
        whole = loss.whole(nets, values)
        total = own["total"] + whole["total"]
        backward(total, scaler)
        return [_detached(own | whole | {"total": total})], _detached(values)
    with torch.no_grad():
        seen = [run(samples)[1] for samples in parts]
    values = {key: workers.gather(torch.cat([part[key] for part in seen])).requires_grad_() for key in seen[0]}
    whole = loss.whole(nets, values)
    grads = dict(zip(values, torch.autograd.grad(whole["total"], list(values.values())), strict=True))
    numbers = []
    for samples in parts:
        begin_part(samples is parts[-1])
        own, part = run(samples)
        inner = [(grads[key][samples.start : samples.stop] * value).sum() for key, value in part.items()]
        # Gradients are averaged over parts and processes, whereas those of the samples add up.
        backward((own["total"] + workers.shares * torch.stack(inner).sum()) / len(parts), scaler)
        numbers.append(_detached(own | whole | {"total": own["total"] + whole["total"]}))
    return numbers, _detached(values)


def _detached(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in values.items()}
