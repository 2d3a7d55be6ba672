"""Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a counter-based generator.

Its numbers are a function of a key and a counter, without state, so one call draws those of a whole batch. They are the
same integers on every device.
"""

import torch
from torch import Tensor

ROUNDS = 10
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85  # added to the key after each round
MASK = 2**32 - 1
KERNEL_DEVICES = ("cpu", "cuda", "meta")

Words = tuple[Tensor, Tensor, Tensor, Tensor]  # int64, of a counter


def random_words(key: int, first: int, blocks: int, device: torch.device | str) -> Tensor:
    """int32 [blocks, 4]: 128 random bits for each of the counters first, first + 1, ...; key and counters have 64 bits.

    torch has a kernel for it from 2.14 on, which its interface still calls experimental; without it, the same words
    come from integer arithmetic, in about five times the time.
    """
    if hasattr(torch.ops.aten, "_philox_key_split") and torch.device(device).type in KERNEL_DEVICES:
        return _by_kernel(key, first, blocks, device)
    return by_arithmetic(key, first, blocks, device)


def _by_kernel(key: int, first: int, blocks: int, device: torch.device | str) -> Tensor:
    """The words by torch's kernel, whose keys are pairs (key, counter) and whose new keys are raw output of Philox."""
    # A fill takes its number as an argument; a tensor from a list, or an assignment, is uploaded while the host waits.
    pair = torch.full((2,), _signed(first), dtype=torch.int64, device=device)
    pair[0].fill_(_signed(key))
    return torch.ops.aten._philox_key_split(pair.view(torch.uint64), blocks).view(torch.int32)


def by_arithmetic(key: int, first: int, blocks: int, device: torch.device | str) -> Tensor:
    """The words by int64 arithmetic, whose products of two 32-bit numbers are exact in 64 bits up to their sign."""
    counter = torch.arange(blocks, device=device) + _signed(first)
    low, high = counter & MASK, (counter >> 32) & MASK
    key_low, key_high = key & MASK, (key >> 32) & MASK
    words: Words = low, high, torch.zeros_like(low), torch.zeros_like(low)
    for _ in range(ROUNDS):
        words = _round(*words, key_low, key_high)
        key_low, key_high = (key_low + KEY_STEPS[0]) & MASK, (key_high + KEY_STEPS[1]) & MASK
    return torch.stack([words[0] | words[1] << 32, words[2] | words[3] << 32], dim=1).view(torch.int32)


def _round(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key_low: int, key_high: int) -> Words:
    """One round on the four words of the counter. The upper half of c1 and c3 may hold anything."""
    product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
    next0 = ((product1 >> 32) ^ c1 ^ key_low) & MASK
    next2 = ((product0 >> 32) ^ c3 ^ key_high) & MASK
    return next0, product1, next2, product0


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as `value`."""
    return (value + 2**63) % 2**64 - 2**63
