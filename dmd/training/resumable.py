"""A short training of one network that resumes from its last checkpoint, with progress and signals."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor

from dmd.progress import Progress
from dmd.signals import postpone_stop
from dmd.storage.checkpoint import Scratch

CHECKPOINT_EVERY = 250  # steps


class Stateful(Protocol):
    """A network or an optimizer."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


def run_steps(
    title: str, steps: int, parts: Mapping[str, Stateful], scratch: Scratch, take_step: Callable[[int], Tensor]
) -> None:
    """Run the steps of a training that its last checkpoint does not hold, with progress and checkpoints.

    take_step: called with the index of a step, returns its loss, a scalar. parts: all that a step changes, by name.
    title: name of the progress line. After a signal, saves a checkpoint and raises Stopped, or KeyboardInterrupt
    after SIGINT. The last state is saved too, so that a run of several trainings does not repeat a finished one.
    """
    first = 0
    if saved := scratch.load():
        first = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    with Progress(title, steps, "steps", first) as progress, postpone_stop() as stop, scratch:
        for done in range(first + 1, steps + 1):
            loss = take_step(done - 1)
            progress.update(loss=loss.item())
            scratch.check()
            if stop or done % CHECKPOINT_EVERY == 0 or done == steps:
                scratch.save({"step": done, **{name: part.state_dict() for name, part in parts.items()}})
            if stop:
                scratch.wait()
                stop.end()
