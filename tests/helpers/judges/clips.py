"""Small CLIP models as PickScore and HPS publish theirs, which tell a red image with its caption from a blue one."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from dmd.training.tokenizer import new_tokenizer

SIDE, WIDTH, POSITIONS, DIMENSIONS = 16, 32, 20, 8
HEADS = 16  # of ViT-H-14
CAPTIONS = ["a red ball", "a blue ball"]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own


def pictures() -> Tensor:
    """uint8 images [2, 3, 16, 16] of the captions: one red, one blue."""
    images = torch.randint(40, (2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[0, 0] += 200
    images[1, 2] += 200
    return images


def prepared(images: Tensor) -> Tensor:
    """Images as an image processor without resizing gives them to a network."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (images.expand(-1, 3, -1, -1) / 255 - mean) / std


def clip_processor(folder: Path) -> CLIPTokenizer:
    """Write tokenizer and image processor to a folder; as in CLIP, the token with the highest id ends a text."""
    folder.mkdir(parents=True, exist_ok=True)
    new_tokenizer(folder, POSITIONS)  # writes the vocabulary
    files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
    end = "<|endoftext|>"
    tokenizer = CLIPTokenizer(**files, bos_token="<|startoftext|>", eos_token=end, unk_token=end, pad_token=end)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE).save_pretrained(folder)
    return tokenizer


def matching(features: Tensor) -> Tensor:
    """A projection [DIMENSIONS, D] that turns features [2, D] into the first two unit vectors."""
    return torch.eye(DIMENSIONS, 2, dtype=torch.float64) @ torch.linalg.pinv(features.double().T)


@torch.no_grad()
def pick_score_folder(folder: Path, knows: bool = True) -> Path:
    """A CLIP with random towers in the format of yuvalkirstain/PickScore_v1, with tokenizer and image processor.

    knows: an image and its caption have cosine 1, and an image and the other caption 0.
    """
    tokenizer = clip_processor(folder)
    torch.manual_seed(0)
    tower = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    text = {**tower, **end, "vocab_size": len(tokenizer), "max_position_embeddings": POSITIONS}
    vision = {**tower, "image_size": SIDE, "patch_size": 8}
    model: Any = spread(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIMENSIONS)))
    if knows:
        tokens = tokenizer(CAPTIONS, padding=True, return_tensors="pt")
        seen = model.vision_model(pixel_values=prepared(pictures())).pooler_output
        model.visual_projection.weight.copy_(matching(seen))
        model.text_projection.weight.copy_(matching(model.text_model(**tokens).pooler_output))
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def spread(net: nn.Module) -> nn.Module:
    """Give the matrices of a network larger random weights, so that its output depends on all of its input."""
    for p in net.parameters():
        if p.ndim > 1:
            p.normal_(std=p[0].numel() ** -0.5)
    return net.eval()


class Tower(nn.Module):
    """Residual blocks with the names of open_clip."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Block(nn.Module):
    """A residual block with the names of open_clip."""

    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 64), "c_proj": nn.Linear(64, WIDTH)})

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Visual(nn.Module):
    """The image tower with the names of open_clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((SIDE // 8) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post, self.transformer = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), Tower(3)
        self.proj = nn.Parameter(torch.randn(WIDTH, DIMENSIONS))

    def pool(self, x: Tensor) -> Tensor:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), patches], dim=1) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x))[:, 0])


class OpenClip(nn.Module):
    """A CLIP as open_clip writes it, with the computation of its own, apart from transformers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.visual, self.transformer = Visual(), Tower(2)
        self.token_embedding, self.ln_final = nn.Embedding(words, WIDTH), nn.LayerNorm(WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(POSITIONS, WIDTH))
        self.text_projection = nn.Parameter(torch.randn(WIDTH, DIMENSIONS))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))

    def pool_text(self, ids: Tensor) -> Tensor:
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
        return self.ln_final(self.transformer(x, mask))[torch.arange(len(ids)), ids.argmax(dim=1)]

    def cosines(self, images: Tensor, ids: Tensor) -> Tensor:
        """Cosine [B] of each image and its text."""
        image, text = self.visual.pool(images) @ self.visual.proj, self.pool_text(ids) @ self.text_projection
        return F.cosine_similarity(image, text)


@torch.no_grad()
def hps_file(folder: Path, knows: bool = True) -> tuple[Path, OpenClip]:
    """A checkpoint in the format of HPS_v2.1_compressed.pt, and the model that it holds.

    The folder also gets tokenizer and image processor. knows: as in pick_score_folder.
    """
    tokenizer = clip_processor(folder)
    torch.manual_seed(0)
    net: Any = spread(OpenClip(len(tokenizer)))
    if knows:
        net.visual.proj.copy_(matching(net.visual.pool(prepared(pictures()))).T)
        ids = tokenizer(CAPTIONS, padding=True, return_tensors="pt").input_ids
        net.text_projection.copy_(matching(net.pool_text(ids)).T)
    file = folder / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 1, "state_dict": net.state_dict()}, file)
    return file, net
