"""Noise of images that no generator is measured by: those of a reference, and those of the validation."""

import hashlib

import torch


def noise_of(purpose: str, seed: int, part: int | str) -> torch.Generator:
    """Random numbers of a part, such as a draw. The hash keeps them apart from those of training and of the measures.

    Those have sums of seeds and counts; another such sum would equal one of them for some seed.
    """
    digest = hashlib.blake2b(f"{purpose} {seed} {part}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
