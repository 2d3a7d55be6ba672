"""Copies of a state that a thread can write while the training changes the originals."""

from typing import Any

from torch import Tensor


def snapshot(value: Any, keep: bool = True) -> Any:
    """Return nested dicts and lists with a copy on the CPU in place of every tensor, whole where it is sharded.

    With shards, the call is collective. Tensors are gathered one by one, and a process that does not `keep` them gets
    None in their place, so that no device holds more than one whole tensor at a time.
    """
    if isinstance(value, dict):
        return {k: snapshot(v, keep) for k, v in value.items()}
    if isinstance(value, list):
        return [snapshot(v, keep) for v in value]
    if not isinstance(value, Tensor):
        return value
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[attr-defined]
    return whole.detach().to("cpu", copy=True) if keep else None
