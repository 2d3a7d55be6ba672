"""The work of a block by its kind: each call's own time and tensors, without those of the calls inside it."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self
from unittest.mock import patch

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dmd.diffusion.denoiser import Denoiser
from dmd.distillation import trainer
from dmd.distillation.methods import dmd
from dmd.distillation.networks import Networks
from dmd.distillation.parallel import whole_batch
from dmd.distillation.state import TrainState
from dmd.distillation.turn_log import TurnLog
from dmd.features.frozen import FrozenNetwork
from dmd.training.random_source import RandomSource

# (owner, name of a function, kind of its work)
FUNCTIONS = (
    (whole_batch, "backward", "backward"),
    (trainer, "apply_gradients", "optimizer"),
    (TrainState, "update_averages", "averages"),
    (dmd, "image_statistics", "monitors"),
    (dmd, "gradient_by_time", "monitors"),
    (RandomSource, "_words", "random numbers"),
    (RandomSource, "noise", "random numbers"),
    (RandomSource, "integers", "random numbers"),
    (TurnLog, "add", "checks"),
    (TurnLog, "read", "checks"),
    (FrozenNetwork, "forward", "features"),
)


class Passes:
    """A watch on one training: its passes and other work by the functions that do them."""

    def __init__(self, nets: Networks, clock: Callable[[], float] = time.process_time) -> None:
        """clock: seconds; one that waits for a GPU charges its work to the call that asked for it."""
        self.nets, self.clock = nets, clock
        self.kinds = ["rest"]  # of the calls that are open, outermost first
        self.seconds: Counter[str] = Counter()
        self.since = 0.0
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        self.stack.enter_context(patch.object(Denoiser, "run", self._timed_passes(Denoiser.run)))
        for heads in (self.nets.critic_heads, self.nets.discriminator):
            if heads is not None:
                forward = self._timed("discriminator", heads.forward)
                self.stack.enter_context(patch.object(heads, "forward", forward))
        for owner, name, kind in FUNCTIONS:
            self.stack.enter_context(patch.object(owner, name, self._timed(kind, getattr(owner, name))))
        return self

    def __exit__(self, *exc: object) -> None:
        self.stack.close()

    def measure(self, block: Callable[[], object]) -> dict[str, float]:
        """Seconds of a block by kind."""
        self.seconds.clear()
        self.since = self.clock()
        block()
        self._count()
        return dict(self.seconds)

    def measure_bytes(self, block: Callable[[], object]) -> dict[str, int]:
        """Bytes of the tensors that each kind of work makes in a block, whether or not they are freed within it."""
        with _Made(self) as made:
            block()
        return dict(made.bytes)

    def _count(self) -> None:
        now = self.clock()
        self.seconds[self.kinds[-1]] += now - self.since  # type: ignore[assignment]
        self.since = now

    @contextmanager
    def _within(self, kind: str) -> Iterator[None]:
        self._count()
        self.kinds.append(kind)
        try:
            yield
        finally:
            self._count()
            self.kinds.pop()

    def _timed_passes(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`Denoiser.run`, whose work is that of the network with the same weights, such as the unguided teacher."""
        names = ("critic", "teacher", "generator")  # without a critic, the teacher stands in its place
        kinds = {id(next(getattr(self.nets, name).parameters())): name for name in names}

        def call(denoiser: Denoiser, *args: Any) -> Any:
            with self._within(kinds.get(id(next(denoiser.parameters())), "rest")):
                return run(denoiser, *args)

        return call

    def _timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._within(kind):
                return function(*args, **kwargs)

        return call


class _Made(TorchDispatchMode):
    """Counts the bytes of the results of all operations, except views."""

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes = passes
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
        for result in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(result, Tensor) and result.untyped_storage()._cdata not in inputs:
                self.bytes[self.passes.kinds[-1]] += result.nbytes
        return out
