"""Generated images are clipped to [-1, 1]; losses on images are an error for a teacher on latents."""

import pytest
import torch

from dmd.config import Params
from dmd.distillation.clipping import clip
from dmd.distillation.methods import Setting, check_method
from dmd.errors import ConfigError
from tests.helpers.training import batch, draws
from tests.helpers.training import gan_method as method
from tests.helpers.training import gan_networks as networks


def test_gradients_move_a_clipped_value_only_back_into_the_range() -> None:
    """Outside the range, a gradient that points further out becomes zero, and a gradient that points back stays."""
    x = torch.tensor([-1.5, -1.0, -0.95, 0.5, 1.0, 1.5], requires_grad=True)
    assert clip(x).tolist() == pytest.approx([-1, -1, -0.95, 0.5, 1, 1])
    clip(x).sum().backward()  # descent lowers every value
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 1, 1]
    x.grad = None
    (-clip(x)).sum().backward()  # descent raises every value
    assert x.grad.tolist() == [-1, -1, -1, -1, -1, 0]


def test_a_method_clips_the_inputs_of_its_losses(params: Params) -> None:
    inputs = []
    for clipped in (True, False):
        m = method(params, clip=clipped)
        nets = networks(m)
        with torch.no_grad():
            nets.generator.net.conv_out.weight.mul_(30)  # images leave the range
        z, y = batch(4)
        x = m.generate("generator", nets, z, y, draws("generator", 4))  # type: ignore[attr-defined]
        inputs.append(x)
    assert inputs[1].abs().max() > 1
    assert torch.equal(inputs[0], inputs[1].clamp(-1, 1))


@pytest.mark.parametrize(
    "changes, message, remedy",
    [
        ({"clip": True}, "method.clip", "set it to false"),
        ({"name": "dmd2", "gan": "detail"}, "method.gan.trunks: detail", "use critic"),
        ({"regression_loss": "lpips"}, "method.regression_loss: lpips", "use l2 or huber"),
    ],
)
def test_features_of_images_are_an_error_for_latents(params: Params, changes: dict, message: str, remedy: str) -> None:
    if "gan" in changes:
        changes = changes | {"gan": params.method.gan.model_copy(update={"trunks": [changes["gan"]]})}
    changed = params.model_copy(update={"method": params.method.model_copy(update=changes)})
    with pytest.raises(ConfigError, match=f"^{message}.*this teacher works on latents; {remedy}$"):
        check_method(changed, Setting(on_pixels=False, has_images=True, pairs=1))
    check_method(changed, Setting(on_pixels=True, has_images=True, pairs=1))
    check_method(params, Setting(on_pixels=False, has_images=True, pairs=1))
