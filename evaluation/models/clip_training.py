"""Train a small CLIP model on the images and their captions: the default evaluator."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dmd.config import EvaluatorConfig
from dmd.data.splits import Split
from dmd.storage.checkpoint import Scratch
from dmd.training.optim import learning_rate, optimizer_step
from dmd.training.random_source import RandomSource
from dmd.training.resumable import run_steps
from dmd.training.tokenizer import new_tokenizer
from evaluation.models.captions import longest_caption
from evaluation.models.clip import ClipExtractor, no_progress_bars

MIN_TOKENS = 77  # CLIP's own number


def new_clip(cfg: EvaluatorConfig, image_size: int, tokenizer: CLIPTokenizer) -> CLIPModel:
    """New CLIP of two small transformers; patches are 2 pixels wide, or wider so that at most 8 fit along a side."""
    tower = {
        "hidden_size": cfg.hidden_size,
        "intermediate_size": 4 * cfg.hidden_size,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.hidden_size // 8 if cfg.hidden_size < 64 else cfg.hidden_size // 16,
    }
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {**tower, **ids, "vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
    vision = {**tower, "image_size": image_size, "patch_size": max(2, image_size // 8)}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=cfg.projection_dim, **ids))


def train_clip(
    cfg: EvaluatorConfig,
    train: Split,
    all_captions: Sequence[str],
    folder: Path,
    device: torch.device,
    scratch: Scratch,
) -> None:
    """Train on images and captions, and write a transformers folder. Images with equal captions are positives.

    all_captions: different captions of all splits; the text tower has room for the longest, up to cfg.max_tokens.
    """
    torch.manual_seed(cfg.seed)
    longest = longest_caption(new_tokenizer(folder, cfg.max_tokens), all_captions)
    tokenizer = new_tokenizer(folder, min(max(longest, MIN_TOKENS), cfg.max_tokens))
    size = max(train.shape[1:])
    model = new_clip(cfg, size, tokenizer).train()
    model.to(device)  # type: ignore[arg-type]
    processor = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    clip = ClipExtractor(model, tokenizer, processor)
    captions = sorted(set(train.captions))
    position = {c: i for i, c in enumerate(captions)}
    index = torch.tensor([position[c] for c in train.captions])
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=0.1, fused=True)

    def take_step(step: int) -> Tensor:
        rng = RandomSource(cfg.seed, step, "clip", range(cfg.batch_size))
        batch = rng.integers(0, len(index))
        loss = contrastive_loss(clip, train.images[batch], captions, index[batch])
        lr = learning_rate(cfg.lr, step, cfg.steps // 20, cfg.steps, "cosine")
        optimizer_step(optimizer, model, loss, lr, 1.0, f"evaluator loss at step {step}")
        return loss

    run_steps("evaluator", cfg.steps, {"net": model, "optimizer": optimizer}, scratch, take_step)
    with no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)


def contrastive_loss(clip: ClipExtractor, images: Tensor, captions: list[str], index: Tensor) -> Tensor:
    """CLIP's symmetric loss for images that may share captions; index [B] is the caption of each image.

    A caption that several images share has a uniform target over them.
    """
    present = index.unique()
    text = F.normalize(clip.text_embeds([captions[i] for i in present.tolist()]), dim=-1)
    image = F.normalize(clip.image_embeds(images), dim=-1)
    logits = clip.model.logit_scale.exp() * image @ text.T  # [B, captions present]
    is_match = (index[:, None] == present[None]).to(logits)
    to_text = -(is_match * logits.log_softmax(dim=1)).sum(dim=1).mean()
    to_image = -(is_match / is_match.sum(dim=0) * logits.log_softmax(dim=0)).sum(dim=0).mean()
    return 0.5 * (to_text + to_image)
