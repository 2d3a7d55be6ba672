"""Trains the run's own trunk on labels and rotations of the first half of the train split."""

import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.config import TrunkConfig
from dmd.data.shards import to_unit
from dmd.data.splits import Split, half
from dmd.features.own import ROTATIONS, OwnNetwork
from dmd.storage.checkpoint import Scratch
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource
from dmd.training.resumable import run_steps

CLIP = 1.0  # largest norm of the gradient


def train_own(cfg: TrunkConfig, train: Split, device: torch.device, scratch: Scratch) -> tuple[OwnNetwork, float]:
    """Return the network, and the share of the other half's rotated images whose rotation it recognises.

    Without classes it learns rotations alone.
    """
    seen = half(train, 0)
    torch.manual_seed(cfg.seed)
    net = OwnNetwork(train.shape[0], cfg.width, max(len(train.class_names), 1)).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=cfg.lr, weight_decay=0.1, fused=True)

    def take_step(step: int) -> Tensor:
        rng = RandomSource(cfg.seed, step, "trunk", range(cfg.batch_size))
        batch, turns = rng.integers(0, len(seen.labels)), rng.integers(0, ROTATIONS)
        x = rotate(to_unit(seen.images[batch]).to(device), turns.to(device))
        label, rotation = net(x)
        loss = F.cross_entropy(rotation, turns.to(device))
        if train.class_names:
            loss = loss + F.cross_entropy(label, seen.labels[batch].to(device))
        lr = learning_rate(cfg.lr, step, cfg.steps // 20, cfg.steps, "cosine")
        optimizer_step(optimizer, net, loss, lr, CLIP, f"trunk loss at step {step}")
        return loss

    run_steps("trunk", cfg.steps, {"net": net, "optimizer": optimizer}, scratch, take_step)
    return net, _rotation_accuracy(net, half(train, 1).images[:512], device)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate square images [B, C, H, H] by `turns` [B] right angles."""
    rotated = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(ROTATIONS)])
    return rotated[turns, torch.arange(len(x), device=x.device)]


@torch.no_grad()
def _rotation_accuracy(net: OwnNetwork, images: Tensor, device: torch.device) -> float:
    x, turns = to_unit(images).to(device), torch.arange(len(images), device=device) % ROTATIONS
    return (net(rotate(x, turns))[1].argmax(dim=1) == turns).float().mean().item()
