"""The sampling loop of a generator as a function that needs only torch.

The card of a generator folder and the registered model contain the source of this function, since both must run without
this project. Inside the project `dmd.samplers.few_step` makes the same images.
"""

import inspect

import torch


def run_steps(
    net: torch.nn.Module, steps: list[dict[str, float]], noise: torch.Tensor, **conditioning: object
) -> torch.Tensor:
    """x [B, C, H, W] from unit noise [B, steps, C, H, W]; `steps` holds the coefficients of generator.json."""
    x = torch.zeros_like(noise[:, 0])
    for k, step in enumerate(steps):
        x_t = step["alpha"] * x + step["sigma"] * noise[:, k]
        time = torch.full((len(x_t),), step["time"], device=x_t.device)  # diffusers rounds a plain float to an integer
        out = net(step["c_in"] * x_t, time, **conditioning).sample[:, : x_t.shape[1]]  # without a predicted variance
        x = step["c_skip"] * x_t + step["c_out"] * out
    return x


SOURCE = inspect.getsource(run_steps)
