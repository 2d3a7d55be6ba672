"""Tensors that hold no data, so that a turn costs the host's own time alone.

They are those of the device "meta". FakeTensorMode can imitate CUDA, but its backward pass needs a GPU, and each of its
operations takes the host ten times as long.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

OPTIMIZER = sys.modules["torch.optim.optimizer"]  # `torch.optim.optimizer` is not an attribute
META = torch.device("meta")


@contextmanager
def without_data() -> Iterator[None]:
    """Let new tensors be without data, and let fused optimizers accept them."""
    with patch.object(OPTIMIZER, "_get_fused_kernels_supported_devices", lambda: ["meta"]), META:
        yield
