"""What a network is told of captions: their embeddings by the text encoders of its pipeline, looked up by index.

The last row is of no caption. Few are held in memory, many stay on disk: 500,000 of Stable Diffusion's are 118 GB.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmd.data.shards import Rows
from dmd.training.tokenizer import tokenize

AT_ONCE = 256  # captions that a text encoder is given at a time
HELD = 256 * 2**20  # bytes of embeddings that are held in memory; more are read as they are asked for

Tables = Mapping[str, Tensor | Rows]  # "embeddings" [K + 1, L, D]; of SDXL "pooled" [K + 1, D'], too


class Held(nn.Module):
    """Rows in memory, on the network's own device."""

    table: Tensor

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        return self.table[index]


class Stored(nn.Module):
    """Rows on disk. The last batch is kept: teacher, critic and generator are asked about the same one."""

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        self.rows = rows
        self.last: list[Tensor] = []  # index, and its rows

    def forward(self, index: Tensor) -> Tensor:
        if not self.last or self.last[0].device != index.device or not torch.equal(self.last[0], index):
            self.last[:] = [index, self.rows[index.cpu()].float().to(index.device)]
        return self.last[1]

    def __deepcopy__(self, memo: dict[int, object]) -> "Stored":
        """Itself: copies of a network share what was read."""
        return self


def lookup(table: Tensor | Rows) -> nn.Module:
    """index [B] -> rows [B, ...], float32."""
    if isinstance(table, Tensor):
        return Held(table)
    return Held(table[:].float()) if table.nbytes <= HELD else Stored(table)


@torch.no_grad()
def embed(pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """The captions as the pipeline's text encoders see them: float32 on the CPU, a row each.

    SDXL has two encoders, and tells its network of each caption as a whole, too.
    """
    device = pipe.text_encoder.device
    if not hasattr(pipe, "text_encoder_2"):
        words = pipe.text_encoder(tokenize(pipe.tokenizer, captions).to(device))[0]
        return {"embeddings": words.float().cpu()}
    words, _, whole, _ = pipe.encode_prompt(list(captions), device=device, do_classifier_free_guidance=False)
    return {"embeddings": words.float().cpu(), "pooled": whole.float().cpu()}


@torch.no_grad()
def embed_none(pipe: Any) -> dict[str, Tensor]:
    """No caption, a row: the empty one, or zeros where SDXL was trained with zeros."""
    none = embed(pipe, [""])
    zeros = hasattr(pipe, "text_encoder_2") and pipe.config.force_zeros_for_empty_prompt
    return {name: torch.zeros_like(row) for name, row in none.items()} if zeros else none


def embed_all(pipe: Any, captions: Sequence[str]) -> dict[str, Tensor]:
    """Tables of the captions and of none, in memory."""
    parts = [embed(pipe, captions[i : i + AT_ONCE]) for i in range(0, len(captions), AT_ONCE)]
    return {name: torch.cat([*(part[name] for part in parts), row]) for name, row in embed_none(pipe).items()}
