"""A small convolutional classifier; its penultimate features are an extractor independent of CLIP."""

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dmd.config import EvaluatorConfig
from dmd.data.shards import to_unit
from dmd.data.splits import Split
from dmd.errors import EvaluatorError
from dmd.storage.checkpoint import Scratch
from dmd.storage.faults import refuse
from dmd.storage.files import write_text
from dmd.storage.weights import find_bad_weight
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource
from dmd.training.resumable import run_steps

ROWS = 4096  # features that become logits at a time


class Classifier(nn.Module):
    """Three convolutions and one hidden layer: `features` [B, F] of the hidden layer, `forward` gives logits [B, K].

    A call extracts features, as every Extractor does.
    """

    def __init__(self, channels: int, width: int, features: int, classes: int) -> None:
        super().__init__()
        self.settings = {"channels": channels, "width": width, "features": features, "classes": classes}
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * width, features),
        )
        self.head = nn.Linear(features, classes)

    @property
    def is_trained(self) -> bool:
        """False without several classes, which are what it learns."""
        return self.settings["classes"] > 1

    def features(self, images: Tensor) -> Tensor:
        """Features [B, F] of uint8 images [B, C, H, W]."""
        return self.body(to_unit(images.to(self.head.weight.device)))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.silu(self.features(images)))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        return self.features(images).cpu()

    @torch.inference_mode()
    def classify(self, features: Tensor) -> Tensor:
        """Predicted labels [N], on the CPU, from features [N, F]; logits of a part of the rows at a time."""
        parts = (part.to(self.head.weight.device) for part in features.split(ROWS))
        return torch.cat([self.head(F.silu(part)).argmax(dim=1).cpu() for part in parts])


def train_classifier(
    cfg: EvaluatorConfig, train: Split, held_out: Split, folder: Path, device: torch.device, scratch: Scratch
) -> float:
    """Train on labels, write the folder and return the accuracy on `held_out`.

    Without classes the classifier is not trained: it keeps its random weights, its accuracy is NaN, and it is no
    extractor.
    """
    torch.manual_seed(cfg.seed)
    classes, steps = max(len(train.class_names), 1), cfg.classifier_steps if train.class_names else 0
    net = Classifier(train.shape[0], cfg.classifier_width, cfg.classifier_features, classes).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=cfg.lr, weight_decay=0.1, fused=True)

    def take_step(step: int) -> Tensor:
        rng = RandomSource(cfg.seed, step, "classifier", range(cfg.batch_size))
        batch = rng.integers(0, len(train.labels))
        loss = F.cross_entropy(net.forward(train.images[batch]), train.labels[batch].to(device))
        lr = learning_rate(cfg.lr, step, steps // 20, steps, "cosine")
        optimizer_step(optimizer, net, loss, lr, 1.0, f"classifier loss at step {step}")
        return loss

    run_steps("classifier", steps, {"net": net, "optimizer": optimizer}, scratch, take_step)
    folder.mkdir(parents=True)
    save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")
    write_text(folder / "config.json", json.dumps(net.settings, indent=2) + "\n")
    if not train.class_names:
        return math.nan
    batches = held_out.images.split(cfg.batch_size)  # all at once, the activations of large images fill the memory
    predictions = net.classify(torch.cat([net(images) for images in batches]))
    return (predictions == held_out.labels).float().mean().item()


def load_classifier(folder: Path, device: torch.device) -> Classifier:
    """Read the folder that `train_classifier` wrote. Raises EvaluatorError if it is damaged, or a weight no number."""
    with refuse(f"{folder} could not be loaded as a classifier", "run the evaluator stage again", EvaluatorError):
        net = Classifier(**json.loads((folder / "config.json").read_text()))
        net.load_state_dict(load_file(folder / "model.safetensors"))
        fault = find_bad_weight(folder, net)
    if fault:
        raise EvaluatorError(f"{fault}; run the evaluator stage again")
    return net.to(device).eval().requires_grad_(False)
