"""Heads on levels, class condition by projection, and fixed random mixing."""

import pytest
import torch
from torch import Tensor

from dmd.distillation.gan.heads import TrunkHeads, new_heads, scores
from dmd.distillation.gan.mixing import RandomMixing

SHAPES = [(16, 32, 32), (24, 16, 16), (320, 4, 4)]
MIXINGS = ["none", "channels", "channels_and_scales"]


def levels(n: int = 3, seed: int = 0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, generator=rng) for shape in SHAPES]


def with_embeddings(heads: TrunkHeads) -> TrunkHeads:
    """Heads with label embeddings that are not zero."""
    with torch.no_grad():
        for head in heads.heads:
            head.embedding.weight.normal_()  # type: ignore[union-attr]
    return heads


@pytest.mark.parametrize("mixing", MIXINGS)
def test_each_level_has_patch_logits(mixing: str) -> None:
    heads = new_heads(SHAPES, 10, mixing, seed=0)
    logits = heads(levels(), torch.arange(3))
    assert [tuple(level.shape) for level in logits] == [(3, 64), (3, 64), (3, 16)]
    assert scores(logits).shape == (3,)
    torch.testing.assert_close(scores(logits)[1], torch.stack([level[1].mean() for level in logits]).mean())


def test_a_head_does_not_mix_samples() -> None:
    """Data and generated images may therefore share a pass, and a batch may be split into parts."""
    heads, x = with_embeddings(new_heads(SHAPES, 10, "channels_and_scales", seed=0)), levels()
    labels = torch.tensor([1, 2, 3])
    for whole, part in zip(heads(x, labels), heads([level[:1] for level in x], labels[:1]), strict=True):
        torch.testing.assert_close(whole[:1], part)


def test_a_label_moves_the_logits_if_and_only_if_the_heads_have_labels() -> None:
    x, one, two = levels(), torch.tensor([1, 1, 1]), torch.tensor([2, 2, 2])
    conditional, unconditional = with_embeddings(new_heads(SHAPES, 10, "none", 0)), new_heads(SHAPES, 0, "none", 0)
    for a, b in zip(conditional(x, one), conditional(x, two), strict=True):
        assert not torch.allclose(a, b)
    for a, b in zip(unconditional(x, one), unconditional(x, None), strict=True):
        assert torch.equal(a, b)


def test_new_heads_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    a, b, c = (new_heads(SHAPES, 10, "channels_and_scales", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["mixing.channels0"], c["mixing.channels0"])


def test_random_mixing_is_saved_but_not_trained() -> None:
    heads = new_heads(SHAPES, 10, "channels_and_scales", 0)
    mixers = {name for name in heads.state_dict() if name.startswith("mixing.")}
    assert mixers == {f"mixing.channels{i}" for i in range(3)} | {f"mixing.scales{i}" for i in range(2)}
    assert not any(name.startswith("mixing.") for name, _ in heads.named_parameters())


@pytest.mark.parametrize("mixes_scales", [False, True])
def test_mixing_keeps_sides_and_variance_and_spreads_scales_outwards(mixes_scales: bool) -> None:
    torch.manual_seed(0)
    mixing, x = RandomMixing(SHAPES, mixes_scales), levels(64)
    assert [y.shape[1:] for y in mixing(x)] == [(16, 32, 32), (24, 16, 16), (256, 4, 4)]
    assert 0.5 < mixing(x)[2].var() < 2
    changed = [*x[:2], x[2] + 1]
    reaches_outer = [not torch.allclose(a, b) for a, b in zip(mixing(x), mixing(changed), strict=True)]
    assert reaches_outer == [mixes_scales, mixes_scales, True]
    changed = [x[0] + 1, *x[1:]]
    assert [not torch.allclose(a, b) for a, b in zip(mixing(x), mixing(changed), strict=True)] == [True, False, False]


def test_channels_are_mixed_linearly_by_the_stored_matrix() -> None:
    torch.manual_seed(0)
    mixing, x = RandomMixing(SHAPES, False), levels()
    expected = torch.einsum("oc,bchw->bohw", mixing.get_buffer("channels1"), x[1])
    torch.testing.assert_close(mixing(x)[1], expected, rtol=1e-4, atol=1e-5)
