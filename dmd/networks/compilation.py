"""Compiles networks in place by torch.compile, and keeps what the compiler makes for later processes."""

import os
from collections.abc import Iterable

import torch
from torch import nn

from dmd.networks.wrapper import unwrap
from dmd.storage.scratch import scratch_root

CACHE = "TORCHINDUCTOR_CACHE_DIR"  # environment variable of torch: the folder of compiled code
# Compiled forms of one piece of code, which networks of a class share: turns differ in batch sizes and in the weights
# that take gradients. Beyond torch's own limit of 8, the code would run eagerly.
FORMS = 64


def compile_networks(nets: Iterable[nn.Module], mode: str) -> None:
    """Compile networks in place, each at its first pass. Weights keep their names, and copies are not compiled.

    mode: that of torch.compile. If diffusers names the blocks that a network repeats, they are compiled in place of the
    whole: blocks of a shape share their code, so that the compiler's time does not grow with their number.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # it imports the compiler, for two seconds

    # The import, which diffusers makes too, sets the variable to a folder that may not outlive a restart.
    if os.environ.get(CACHE) in (None, "", default_cache_dir()):
        os.environ[CACHE] = str(scratch_root() / "compiled")
    torch.compiler.config.recompile_limit = FORMS
    for net in dict.fromkeys(nets):
        if has_repeated_blocks(net):
            unwrap(net).compile_repeated_blocks(mode=mode)
        else:
            net.compile(mode=mode)


def has_repeated_blocks(net: nn.Module) -> bool:
    """Whether a network has blocks of the classes that diffusers names as repeated."""
    inner = unwrap(net)
    names = getattr(inner, "_repeated_blocks", None) or ()
    return any(type(module).__name__ in names for module in inner.modules())
