"""DiffAugment: known changes, a gradient to the image, and numbers that depend on the sample alone."""

import torch
from torch import Tensor

from dmd.distillation.gan.augment import augment, change_colour, cut_out, translate
from dmd.training.random_source import RandomSource


def images(n: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def rng(samples: range = range(4)) -> RandomSource:
    return RandomSource(0, 0, "discriminator", samples)


def test_the_middle_of_each_colour_range_changes_nothing() -> None:
    x, half = images(), torch.full((4,), 0.5)
    torch.testing.assert_close(change_colour(x, half, half, half), x)


def test_colour_changes_mean_saturation_and_contrast() -> None:
    x, half, zero = images(), torch.full((4,), 0.5), torch.zeros(4)
    torch.testing.assert_close(change_colour(x, zero, half, half), x - 0.5)
    grey = change_colour(x, half, zero, half)
    torch.testing.assert_close(grey, x.mean(dim=1, keepdim=True).expand_as(x))
    faint = change_colour(x, half, half, zero)
    torch.testing.assert_close(faint.std(dim=(1, 2, 3)), x.std(dim=(1, 2, 3)) / 2)
    torch.testing.assert_close(faint.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)))


def test_translation_moves_by_whole_pixels_into_grey() -> None:
    x = images()
    largest = torch.full((4,), 0.999)
    moved = translate(x, largest, torch.zeros(4))  # two pixels down and to the left
    torch.testing.assert_close(moved[:, :, 2:, :-2], x[:, :, :-2, 2:])
    assert moved[:, :, :2].abs().max() == 0 and moved[:, :, :, -2:].abs().max() == 0
    half = torch.full((4,), 0.5)
    assert torch.equal(translate(x, half, half), x)


def test_all_translations_are_equally_frequent() -> None:
    share = torch.arange(5000) / 5000
    line = torch.arange(16.0).reshape(1, 1, 16, 1).expand(5000, 1, 16, 16)
    shifts = 8 - translate(line, share, torch.full((5000,), 0.5))[:, 0, 8, 0]
    counts = torch.stack([(shifts == k).sum() for k in range(-2, 3)]).float()
    assert (counts - 1000).abs().max() <= 1


def test_cutout_removes_a_square_of_half_the_side() -> None:
    half = torch.full((4,), 0.5)
    kept = cut_out(torch.ones(4, 1, 16, 16), half, half)[0, 0]
    assert kept.sum() == 256 - 64 and kept[4:12, 4:12].abs().max() == 0


def test_augmentation_passes_gradients_and_does_not_mix_samples() -> None:
    x = images().requires_grad_()
    changed = augment(x, rng())
    (grad,) = torch.autograd.grad(changed[1].sum(), x)
    assert grad[1].abs().sum() > 0 and grad[[0, 2, 3]].abs().sum() == 0
    torch.testing.assert_close(augment(x[2:], rng(range(2, 4))), changed[2:])  # a batch in parts has equal numbers
    assert not torch.allclose(changed, augment(x, RandomSource(0, 1, "discriminator", range(4))))
    assert torch.equal(changed, augment(x, rng()))
