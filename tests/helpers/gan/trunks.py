"""A small frozen network, and methods and networks with a discriminator on it."""

import torch
from torch import Tensor, nn

from dmd.config import GanConfig, Params
from dmd.distillation.methods import METHODS, Method
from dmd.distillation.networks import Networks
from dmd.features.frozen import FrozenNetwork, Level
from dmd.teachers.teacher import Teacher
from tests.helpers.networks import unet_denoiser
from tests.helpers.sources import reals
from tests.helpers.training import NO_PAIRS

FROZEN = "efficientnet_lite1"  # the name in method.gan.trunks that the small network stands for


def small_trunk(seed: int = 9, dtype: torch.dtype = torch.float32) -> FrozenNetwork:
    """Two convolutions on grey images of 8x8: levels of 4 channels at 4x4, and of 6 channels at 2x2."""
    torch.manual_seed(seed)
    outer, inner = nn.Conv2d(1, 4, 4, stride=2, padding=1), nn.Conv2d(4, 6, 4, stride=2, padding=1)
    net = nn.Sequential(outer, nn.SiLU(), inner).to(dtype)
    return FrozenNetwork(net, FROZEN, lambda x: x, [Level("outer", outer), Level("inner", inner)])


def trunk_method(params: Params, name: str, gan: dict | None = None, **changes: object) -> Method:
    """A method with a discriminator on the small network. gan: changes to `method.gan`."""
    gan_cfg = GanConfig(**{**params.method.gan.model_dump(), "trunks": [FROZEN], "weight": 1.0, **(gan or {})})
    cfg = params.method.model_copy(update={"regression_weight": 0.0, **changes, "gan": gan_cfg, "name": name})
    return METHODS[name](cfg, 1000, NO_PAIRS, reals(), frozen={FROZEN: small_trunk()})


def trunk_networks(m: Method) -> Networks:
    """The networks of a method whose generator differs from the teacher."""
    denoiser = unet_denoiser(0).requires_grad_(False)
    nets = m.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    return nets


def all_weights(nets: Networks) -> dict[str, Tensor]:
    """Copies of the weights of all networks, the trunks included, by network and name."""
    assert nets.discriminator is not None
    trunks = nn.ModuleList(t.net for t in nets.discriminator.trunks.values() if hasattr(t, "net"))
    modules = {**vars(nets), "trunks": trunks}
    return {f"{n}.{k}": v.clone() for n, part in modules.items() if part for k, v in part.state_dict().items()}
