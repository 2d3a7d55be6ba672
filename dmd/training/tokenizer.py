"""Small tokenizers by bytes, for the text encoders of teachers that are trained here."""

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from transformers import CLIPTokenizer, GemmaTokenizer, PreTrainedTokenizerBase

from dmd.storage.files import write_text


def new_tokenizer(folder: Path, max_tokens: int) -> CLIPTokenizer:
    """Return a byte-level tokenizer without merges; its files are written to `folder`.

    All 256 bytes are in its vocabulary, since CLIP maps unknown text to the end token and ignores what follows.
    """
    alphabet = byte_alphabet()
    words = [*alphabet, *(c + "</w>" for c in alphabet), "<|startoftext|>", "<|endoftext|>", "<|pad|>"]
    vocab = {word: i for i, word in enumerate(words)}
    write_text(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
    write_text(folder / "merges.txt", "#version: 0.2\n")
    return CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|pad|>",
        pad_token="<|pad|>",
        model_max_length=max_tokens,
    )


def new_gemma_tokenizer() -> GemmaTokenizer:
    """Return a tokenizer without merges that falls back to a token for each byte."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    return GemmaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], add_bos_token=True)


def byte_alphabet() -> list[str]:
    """Return the printable characters that stand for the 256 bytes in the tokenizers of GPT-2 and CLIP."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def tokenize(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> Tensor:
    """Return token ids [K, L] of captions, padded and truncated as Stable Diffusion's pipeline does."""
    length = tokenizer.model_max_length
    return tokenizer(
        list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    ).input_ids
