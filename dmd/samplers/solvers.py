"""The solvers of the teacher's ODE, by the names that params.yaml and the teacher's samplers use."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dmd.samplers.ddim import ddim
from dmd.samplers.heun import heun


@dataclass(frozen=True)
class Solver:
    """A function (denoiser, z, steps, cond) -> x0, and the network passes that it takes for a number of steps."""

    solve: Callable[..., Tensor]
    passes: Callable[[int], int]


SOLVERS = {
    "ddim": Solver(ddim, lambda steps: steps),
    "heun": Solver(heun, lambda steps: 2 * steps - 1),
}
