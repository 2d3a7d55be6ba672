"""The discriminator, the activations that it reads, and its losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dmd.distillation.gan.activations import activations, encoder
from dmd.distillation.gan.discriminator import Discriminator, new_discriminator, residual_features
from dmd.distillation.losses import critic_gan_loss, generator_gan_loss, r1_penalty
from tests.helpers.networks import unet_denoiser
from tests.helpers.training import batch


def test_the_gan_losses_are_logistic() -> None:
    real, fake = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    assert generator_gan_loss(fake).item() == pytest.approx(-F.logsigmoid(fake).mean().item(), rel=1e-6)
    want = -F.logsigmoid(real).mean() - torch.log(1 - torch.sigmoid(fake)).mean()
    assert critic_gan_loss(real, fake).item() == pytest.approx(want.item(), rel=1e-6)


def test_r1_estimates_the_squared_gradient() -> None:
    """For D(x) = w . x, E |w . n|^2 = |w|^2 for every x and every size of the step."""
    w, r = torch.randn(12), torch.Generator().manual_seed(7)
    x, n = torch.randn(20_000, 12, generator=r), torch.randn(20_000, 12, generator=r)
    got = r1_penalty(x @ w, (x + 0.1 * n) @ w, 0.1)
    assert got.item() == pytest.approx((w**2).sum().item(), rel=0.05)


@pytest.mark.parametrize("size", [(3, 3), (4, 4), (7, 7), (8, 8), (32, 32)])
def test_a_head_gives_one_logit_per_image_of_any_size(size: tuple[int, int]) -> None:
    assert Discriminator([(16, *size)])([torch.randn(3, 16, *size)]).shape == (3, 1)
    two = Discriminator([(4, 2 * size[0], 2 * size[1]), (16, *size)])
    assert two([torch.randn(3, 4, 2 * size[0], 2 * size[1]), torch.randn(3, 16, *size)]).shape == (3, 2)


def test_the_weights_of_a_head_depend_only_on_its_seed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, c = (next(new_discriminator([(8, 4, 4)], seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(before, torch.get_rng_state())


def test_the_innermost_activations_carry_gradients() -> None:
    denoiser = unet_denoiser(0)
    z, y = batch(2)
    z.requires_grad_()
    outputs: list[Tensor] = []
    handle = denoiser.net.mid_block.register_forward_hook(lambda _m, _i, out: outputs.append(out))
    denoiser(z, torch.tensor([5, 900]), y)
    handle.remove()
    (features,) = activations(denoiser, z, torch.tensor([5, 900]), y)
    assert torch.equal(features, outputs[0])
    after: list[Tensor] = []
    denoiser.net.conv_out.register_forward_hook(lambda _m, _i, out: after.append(out))
    assert torch.equal(activations(denoiser, z, torch.tensor([5, 900]), y)[0], features) and not after
    features.sum().backward()
    assert z.grad is not None and z.grad.abs().max() > 0
    assert denoiser.net.conv_in.weight.grad.abs().max() > 0 and denoiser.net.conv_out.weight.grad is None


def test_encoder_activations_are_the_last_of_each_resolution() -> None:
    """The activations equal the skip connections and the middle block of a whole pass, although the pass ends early."""
    denoiser = unet_denoiser(0)
    z, y = batch(2)
    given: list[tuple[Tensor, ...]] = []
    handles = [
        block.register_forward_hook(lambda _m, _i, out: given.append(out[1])) for block in denoiser.net.down_blocks
    ]
    denoiser(z, torch.tensor([5, 900]), y)
    for handle in handles:
        handle.remove()
    *levels, middle = activations(denoiser, z, torch.tensor([5, 900]), y, "encoder")
    assert [f.shape[-1] for f in levels] == [8, 4] and middle.shape[-1] == 4
    for level, handed in zip(levels, given, strict=True):
        assert torch.equal(level, [h for h in handed if h.shape == level.shape][-1])
    assert torch.equal(middle, activations(denoiser, z, torch.tensor([5, 900]), y)[0])


def test_residual_features_scale_faint_contrast_by_the_noise_level() -> None:
    """A difference of 0.01 on black gives features of order 1 when sigma is 0.01."""
    sigma = torch.tensor([0.01, 0.1])
    x = torch.full((2, 1, 8, 8), -1.0)
    x[:, :, 4, 4] += 0.01
    same, contrast, ends = residual_features(x, sigma).chunk(3, dim=1)
    assert torch.equal(same, x)
    want = torch.asinh((x[:, :, 4, 4] - x[:, :, 3:6, 3:6].mean(dim=(2, 3))) / sigma[:, None])
    assert torch.allclose(contrast[:, :, 4, 4], want, atol=1e-5) and contrast[0, 0, 4, 4] > 0.7
    assert contrast[:, :, 0, 0].abs().max() < 1e-4  # a uniform region, also at the edge
    faint = ends[:, 0, 4, 4] - ends[:, 0, 0, 0]
    assert faint[0] > 0.85 and faint[1] < 0.11
    assert torch.allclose(residual_features(-x, sigma)[:, 2], -ends[:, 0])  # white and black are treated alike


def test_an_encoder_shares_the_weights_of_its_network_and_leaves_it_whole() -> None:
    denoiser = unet_denoiser(0)
    z, y = batch(2)
    before = denoiser(z, torch.tensor([5, 900]), y)
    activations(denoiser, z, torch.tensor([5, 900]), y, "encoder")
    assert torch.equal(denoiser(z, torch.tensor([5, 900]), y), before)
    small = encoder(denoiser.net, True, [])
    own = {id(p) for p in denoiser.parameters()}
    assert {id(p) for p in small.parameters()} < own
    assert not any(name.startswith(("up_blocks", "conv_out")) for name, _ in small.named_parameters())
