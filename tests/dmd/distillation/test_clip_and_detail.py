"""What is faint in images: clipped to their range, shown to the discriminator; and refused where there are latents."""

import pytest
import torch

from dmd.config import Params
from dmd.distillation.clipping import clip
from dmd.distillation.gan.discriminator import residual_features
from dmd.distillation.methods import Setting, check_method
from dmd.errors import ConfigError
from tests.helpers.training import batch, draws
from tests.helpers.training import gan_method as method
from tests.helpers.training import gan_networks as networks


def test_clipped_images_learn_to_come_back_and_not_to_go_further() -> None:
    """In steps of 0.1 towards a goal beyond black, and towards one within the range."""
    x = torch.tensor([-1.5, -1.0, -0.95, 0.5, 1.0, 1.5], requires_grad=True)
    assert clip(x).tolist() == pytest.approx([-1, -1, -0.95, 0.5, 1, 1])
    clip(x).sum().backward()  # descent: all go down
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 1]
    x.grad = None
    (-clip(x)).sum().backward()  # all go up
    assert x.grad.tolist() == [-1, -1, -1, -1, -1, 0]


def test_a_method_clips_what_its_losses_see(params: Params) -> None:
    seen = []
    for clipped in (True, False):
        m = method(params, clip=clipped)
        nets = networks(m)
        with torch.no_grad():
            nets.generator.net.conv_out.weight.mul_(30)  # so that images leave the range
        z, y = batch(4)
        x = m.generate("generator", nets, z, y, draws("generator", 4))  # type: ignore[attr-defined]
        seen.append(x)
    assert seen[1].abs().max() > 1
    assert torch.equal(seen[0], seen[1].clamp(-1, 1))


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"clip": True}, "method.clip"),
        ({"name": "dmd2", "gan": "detail"}, "method.gan.features: detail"),
        ({"regression_loss": "lpips"}, "method.regression_loss: lpips"),
    ],
)
def test_what_is_of_images_alone_is_refused_on_latents(params: Params, changes: dict, what: str) -> None:
    if "gan" in changes:
        changes = changes | {"gan": params.method.gan.model_copy(update={"features": changes["gan"]})}
    asked = params.model_copy(update={"method": params.method.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=f"^{what}.*this teacher works on latents$"):
        check_method(asked, Setting(on_pixels=False, has_images=True, pairs=1))
    check_method(asked, Setting(on_pixels=True, has_images=True, pairs=1))
    check_method(params, Setting(on_pixels=False, has_images=True, pairs=1))


def test_detail_shows_what_is_faint_in_units_of_the_noise() -> None:
    """A grey level on black is a hundredth of the range; beside noise of that size it is of the size of 1."""
    sigma = torch.tensor([0.01, 0.1])
    x = torch.full((2, 1, 8, 8), -1.0)
    x[:, :, 4, 4] += 0.01
    same, contrast, ends = residual_features(x, sigma).chunk(3, dim=1)
    assert torch.equal(same, x)
    want = torch.asinh((x[:, :, 4, 4] - x[:, :, 3:6, 3:6].mean(dim=(2, 3))) / sigma[:, None])
    assert torch.allclose(contrast[:, :, 4, 4], want, atol=1e-5) and contrast[0, 0, 4, 4] > 0.7
    assert contrast[:, :, 0, 0].abs().max() < 1e-4  # nothing to be seen there, nor at the edge
    faint = ends[:, 0, 4, 4] - ends[:, 0, 0, 0]
    assert faint[0] > 0.85 and faint[1] < 0.11
    assert torch.allclose(residual_features(-x, sigma)[:, 2], -ends[:, 0])  # white as black
