"""A small ImageReward in the format of its checkpoint, computed apart from transformers."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertTokenizer

from tests.helpers.judges.clips import CAPTIONS, SIDE, pictures, prepared

Weights = dict[str, Tensor]
VISION, TEXT, LAYERS = 32, 48, 2  # widths of the towers, which have 16 and 12 heads
HEAD = {"0": (24, TEXT), "2": (16, 24), "4": (12, 16), "6": (8, 12), "7": (1, 8)}
MEAN, STD = 0.16717362830052426, 1.0333394966054072
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(f"##{c}" for c in LETTERS), *"0123456789?", "red", "blue"]


def bert_tokenizer(folder: Path) -> BertTokenizer:
    """Write a tokenizer of BERT's kind that reads letters; it also has the two tokens that BLIP adds."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", *WORDS]
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)}, bos_token="[DEC]")
    tokenizer.save_pretrained(folder)
    return tokenizer


def shapes(words: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights: those of the BLIP of Salesforce, and of the head."""
    vision: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, VISION), "pos_embed": (1, (SIDE // 8) ** 2 + 1, VISION),
        "patch_embed.proj.weight": (VISION, 3, 8, 8), "patch_embed.proj.bias": (VISION,), **norm("norm", VISION),
    }  # fmt: skip
    text: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (words, TEXT), "embeddings.position_embeddings.weight": (40, TEXT),
        **norm("embeddings.LayerNorm", TEXT),
    }  # fmt: skip
    for n in range(LAYERS):
        at = f"blocks.{n}"
        vision |= norm(f"{at}.norm1", VISION) | norm(f"{at}.norm2", VISION)
        vision |= linear(f"{at}.attn.qkv", 3 * VISION, VISION) | linear(f"{at}.attn.proj", VISION, VISION)
        vision |= linear(f"{at}.mlp.fc1", 64, VISION) | linear(f"{at}.mlp.fc2", VISION, 64)
        at = f"encoder.layer.{n}"
        for part, width in (("attention", TEXT), ("crossattention", VISION)):
            text |= linear(f"{at}.{part}.self.query", TEXT, TEXT)
            text |= linear(f"{at}.{part}.self.key", TEXT, width) | linear(f"{at}.{part}.self.value", TEXT, width)
            text |= linear(f"{at}.{part}.output.dense", TEXT, TEXT) | norm(f"{at}.{part}.output.LayerNorm", TEXT)
        text |= linear(f"{at}.intermediate.dense", 96, TEXT) | linear(f"{at}.output.dense", TEXT, 96)
        text |= norm(f"{at}.output.LayerNorm", TEXT)
    head: dict[str, tuple[int, ...]] = {}
    for i, size in HEAD.items():
        head |= linear(f"mlp.layers.{i}", *size)
    blip = {f"blip.visual_encoder.{k}": v for k, v in vision.items()}
    return blip | {f"blip.text_encoder.{k}": v for k, v in text.items()} | head


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, out: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def draw(name: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """A random weight; those of a norm are near 1."""
    value = torch.randn(shape, generator=rng)
    if len(shape) > 1:
        return value / (1 if "embed" in name else value[0].numel() ** 0.5)
    return 0.1 * value + float("weight" in name)


def run_vision(w: Weights, x: Tensor) -> Tensor:
    """Tokens [B, L, D] of prepared images."""
    w = below(w, "blip.visual_encoder.")
    patches = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], 8).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), 1, -1), patches], dim=1) + w["pos_embed"]
    for n in range(LAYERS):
        at = f"blocks.{n}"
        q, k, v = dense(w, f"{at}.attn.qkv", scale(w, f"{at}.norm1", x, 1e-6)).chunk(3, dim=-1)
        x = x + dense(w, f"{at}.attn.proj", attend(q, k, v, 16))
        hidden = F.gelu(dense(w, f"{at}.mlp.fc1", scale(w, f"{at}.norm2", x, 1e-6)))
        x = x + dense(w, f"{at}.mlp.fc2", hidden)
    return scale(w, "norm", x, 1e-6)


def run_text(w: Weights, ids: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
    """First token [B, D] of texts that attend to the tokens of images."""
    w = below(w, "blip.text_encoder.")
    x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = scale(w, "embeddings.LayerNorm", x, 1e-12)
    for n in range(LAYERS):
        for part, other, bias in (("attention", None, mask), ("crossattention", seen, None)):
            at = f"encoder.layer.{n}.{part}"
            read = x if other is None else other
            q, k, v = (dense(w, f"{at}.self.{n}", y) for n, y in (("query", x), ("key", read), ("value", read)))
            x = scale(w, f"{at}.output.LayerNorm", x + dense(w, f"{at}.output.dense", attend(q, k, v, 12, bias)), 1e-12)
        at = f"encoder.layer.{n}"
        hidden = F.gelu(dense(w, f"{at}.intermediate.dense", x))
        x = scale(w, f"{at}.output.LayerNorm", x + dense(w, f"{at}.output.dense", hidden), 1e-12)
    return x[:, 0]


def run_head(w: Weights, x: Tensor, layers: int = len(HEAD)) -> Tensor:
    """The first layers of the head."""
    for i in list(HEAD)[:layers]:
        x = dense(w, f"mlp.layers.{i}", x)
    return x


def rewards(w: Weights, tokenizer: BertTokenizer, images: Tensor, captions: list[str]) -> Tensor:
    """Reward [B] of each image for its caption."""
    return ((run_head(w, read(w, tokenizer, images, captions)) - MEAN) / STD)[:, 0]


def read(w: Weights, tokenizer: BertTokenizer, images: Tensor, captions: list[str]) -> Tensor:
    tokens = tokenizer(captions, padding="max_length", max_length=35, return_tensors="pt")  # as its authors do
    return run_text(w, tokens.input_ids, tokens.attention_mask, run_vision(w, prepared(images)))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attention of heads; mask: [B, L], 0 for keys that are padding."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    allowed = None if mask is None else mask[:, None, None].bool()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)


def dense(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])


def scale(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def below(w: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): value for name, value in w.items() if name.startswith(prefix)}


@torch.no_grad()
def reward_file(folder: Path, knows: bool = True) -> tuple[Path, Weights, BertTokenizer]:
    """A checkpoint in the format of ImageReward.pt, its weights, and the tokenizer that is written beside it.

    knows: an image has reward 1 for its caption and -1 for the other one, before the normalisation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer, rng = bert_tokenizer(folder), torch.Generator().manual_seed(0)
    w = {name: draw(name, shape, rng) for name, shape in shapes(len(tokenizer)).items()}
    if knows:
        images, captions = pictures()[[0, 1, 0, 1]], [*CAPTIONS, *reversed(CAPTIONS)]
        features = run_head(w, read(w, tokenizer, images, captions), layers=len(HEAD) - 1).double()
        last = torch.linalg.pinv(features) @ torch.tensor([1.0, 1, -1, -1], dtype=torch.float64)
        w |= {"mlp.layers.7.weight": last[None].float(), "mlp.layers.7.bias": torch.zeros(1)}
    unused = {"blip.vision_proj.weight": torch.zeros(2, VISION), "blip.text_proj.weight": torch.zeros(2, TEXT)}
    ids = {"blip.text_encoder.embeddings.position_ids": torch.arange(40)[None]}
    torch.save({**w, **unused, **ids}, folder / "ImageReward.pt")
    return folder / "ImageReward.pt", w, tokenizer
