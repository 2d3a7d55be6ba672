"""Random numbers: Philox gives the published words, and a sample's numbers depend on its key and position alone."""

import math
from itertools import product

import pytest
import torch

from dmd.training.philox import KERNEL_DEVICES, by_arithmetic, random_words
from dmd.training.random_source import RandomSource, _normal
from tests.helpers.faults.waits import Watch
from tests.helpers.training import draws

# Random123's known answers: (counter, key) -> four words. A counter here has 64 bits; its upper 64 bits are zero.
ZEROS = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
ONES = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 in Python's integers, as the paper defines it."""
    for r in range(10):
        k0, k1 = (key[0] + r * 0x9E3779B9) % 2**32, (key[1] + r * 0xBB67AE85) % 2**32
        high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
        counter = high1 ^ counter[1] ^ k0, low1, high0 ^ counter[3] ^ k1, low0
    return list(counter)


def unsigned(words: torch.Tensor) -> list[list[int]]:
    return [[word % 2**32 for word in block] for block in words.tolist()]


def test_philox_gives_the_words_that_its_authors_published() -> None:
    assert philox((0, 0, 0, 0), (0, 0)) == ZEROS and philox((2**32 - 1,) * 4, (2**32 - 1,) * 2) == ONES
    assert unsigned(random_words(0, 0, 1, "cpu")) == [ZEROS]


@pytest.mark.parametrize("words", [random_words, by_arithmetic])
def test_words_are_those_of_philox_for_any_key_and_counter(words) -> None:
    ends = (0, 5, 2**32 - 2, 2**63 - 1, 2**64 - 2)
    for key, first in product(ends, ends):
        counters = [(first + i) % 2**64 for i in range(3)]
        expected = [philox((c % 2**32, c >> 32, 0, 0), (key % 2**32, key >> 32)) for c in counters]
        assert unsigned(words(key, first, 3, "cpu")) == expected


def test_torch_without_the_kernel_gives_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    with_kernel = random_words(2**63 + 7, 2**40, 100, "cpu")
    monkeypatch.setattr("dmd.training.philox.KERNEL_DEVICES", ())
    monkeypatch.setattr("dmd.training.philox._by_kernel", lambda *_: pytest.fail("the kernel was called"))
    assert torch.equal(random_words(2**63 + 7, 2**40, 100, "cpu"), with_kernel)


@pytest.mark.parametrize("shape", [(2, 3), (1, 8, 8), (1, 7, 7)])
def test_the_random_numbers_of_a_sample_do_not_depend_on_the_other_samples(shape: tuple[int, ...]) -> None:
    whole, part = draws(n=8), RandomSource(7, 0, "generator", range(4, 8))
    assert torch.equal(whole.noise(*shape)[4:], part.noise(*shape))
    assert torch.equal(whole.integers(0, 100)[4:], part.integers(0, 100))
    assert torch.equal(whole.uniform()[4:], part.uniform())
    assert whole.common_integer(1000) == part.common_integer(1000)
    assert torch.equal(whole.noise(*shape)[4:], part.noise(*shape))


def test_seed_step_turn_and_purpose_change_the_random_numbers() -> None:
    key = (0, 0, "critic")
    others = [(1, 0, "critic"), (0, 1, "critic"), (0, 0, "generator")]
    sources = [*(RandomSource(*k, range(4)) for k in (key, *others)), RandomSource(*key, range(4)).fork("images")]
    first = [s.noise(3) for s in sources]
    again = [s.noise(3) for s in sources]
    numbers = torch.stack(first + again).flatten()
    assert len(numbers.unique()) == len(numbers)


def test_a_fork_does_not_depend_on_earlier_draws() -> None:
    used, new = draws(), draws()
    used.noise(3)
    assert torch.equal(used.fork("images").integers(0, 1000), new.fork("images").integers(0, 1000))


def test_noise_is_normal_and_independent() -> None:
    """Moments and tails of 400,000 numbers; correlations between positions, elements, draws, steps and purposes."""
    sources = [RandomSource(0, step, "critic", range(1000)) for step in (0, 1)]
    sources += [sources[0].fork("images"), RandomSource(1, 0, "critic", range(1000))]
    noise = torch.stack([s.noise(100) for s in (*sources, sources[0])])  # the last is a second draw of the first
    standard_error = 1 / math.sqrt(noise.numel())
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)) - moment**2)
        assert abs((noise.double() ** power).mean().item() - moment) < 4 * spread * standard_error
    for limit in (1.0, 2.0, 3.0):
        share = math.erfc(limit / math.sqrt(2))
        assert (noise.abs() > limit).double().mean().item() == pytest.approx(share, abs=4 * share**0.5 * standard_error)
    for rows in (noise.flatten(1), noise.transpose(0, 1).flatten(1)[:100], noise.transpose(0, 2).flatten(1)):
        correlation = torch.corrcoef(rows)
        off_diagonal = correlation[~torch.eye(len(rows), dtype=torch.bool)]
        assert off_diagonal.abs().max() < 5 / math.sqrt(rows.shape[1])


def test_normal_numbers_agree_with_their_formula_in_float64_and_stay_finite() -> None:
    """1e-5 is the agreement that devices are promised; every device computes this formula in float32."""
    ends = torch.tensor([[0, -(2**31), 2**31 - 1, -1], [-1, 0, 2**31 - 1, -(2**31)]], dtype=torch.int32)
    words = torch.cat([ends, random_words(3, 0, 5000, "cpu")])
    radius, angle = words.chunk(2, dim=1)
    uniform = ((radius.double() % 2**31).float() + 1) / 2**31  # exact on every device: conversion, sum and quotient are
    radius, angle = (-2 * uniform.double().log()).sqrt(), angle.double() * math.pi / 2**31
    expected = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    assert (_normal(words) - expected).abs().max() < 1e-5 and expected.abs().max() > 6.5


def test_integers_and_uniform_numbers_fill_their_range_evenly() -> None:
    rng = draws(n=100_000)
    counts = rng.integers(20, 30).bincount()
    assert counts[:20].sum() == 0 and len(counts) == 30
    assert (
        (counts[20:] - 10_000) ** 2 / 10_000
    ).sum() < 28  # chi-square with 9 degrees of freedom: 1 in 1,000 is above
    assert rng.integers(-3, -2).unique().tolist() == [-3]
    uniform = rng.uniform()
    assert 0 <= uniform.min() < 1e-4 and 1 - 1e-4 < uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.004)
    assert {draws(seed).common_integer(3) for seed in range(20)} == {0, 1, 2}


def test_an_empty_range_of_integers_is_an_error() -> None:
    with pytest.raises(ValueError, match="no integer from 0 to -1"):
        draws().integers(0, 0)


def test_random_numbers_are_made_on_their_device_without_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """By torch's kernel as well as by arithmetic."""
    for devices in (KERNEL_DEVICES, ()):
        monkeypatch.setattr("dmd.training.philox.KERNEL_DEVICES", devices)
        with Watch() as watch:
            rng = RandomSource(0, 0, "critic", range(4), "meta")
            numbers = rng.noise(3, 8, 8), rng.integers(0, 9), rng.uniform()
        assert [x.shape for x in numbers] == [(4, 3, 8, 8), (4,), (4,)]
        assert {x.device.type for x in numbers} == {"meta"} and watch.waits == []
