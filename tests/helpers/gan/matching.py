"""Methods on the features of a small network, and their networks."""

from dmd.config import MethodConfig, Params
from dmd.distillation.methods import Method, build_method
from dmd.distillation.networks import Networks
from dmd.teachers.pairs import Pairs
from dmd.teachers.teacher import Teacher
from tests.helpers.gan.trunks import FROZEN, small_trunk
from tests.helpers.networks import unet_denoiser
from tests.helpers.sources import reals
from tests.helpers.training import NO_PAIRS


def matching_method(
    params: Params, name: str, moments: dict | None = None, pairs: Pairs = NO_PAIRS, **changes: object
) -> Method:
    """A method, or a sequence of two, that reads the small network. moments: changes to `method.moments`."""
    base = params.method.model_dump()
    own = {**base["moments"], "networks": [FROZEN], "decay": 0.9, "images": 32, "landmarks": 8, **(moments or {})}
    cfg = MethodConfig(**{**base, "regression_weight": 0.0, "name": name, "moments": own, **changes})
    return build_method(cfg, 1000, pairs, reals(), frozen={FROZEN: small_trunk()})


def matching_networks(m: Method, double: bool = False) -> Networks:
    """The networks of a method whose generator differs from the teacher, in float32 or float64."""
    denoiser = unet_denoiser(0).requires_grad_(False)
    if double:
        denoiser.double()
        for net in m.frozen.values():
            net.double()
    nets = m.networks(Teacher(denoiser, denoiser, None, (1, 8, 8), 11), 0)
    nets.generator.load_state_dict(unet_denoiser(1).state_dict())
    return nets
