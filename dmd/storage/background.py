"""A thread for work that a training does not wait for, such as writing a checkpoint."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs one task at a time in a thread. An error of a task is raised by the next call of any method.

    The interpreter ends only after the last task has ended.
    """

    def __init__(self) -> None:
        self.pool: ThreadPoolExecutor | None = None
        self.task: Future[None] | None = None

    def start(self, task: Callable[[], None]) -> None:
        """Start a task, after the one before has ended: two snapshots at once would need twice the memory."""
        self.wait()
        self.pool = self.pool or ThreadPoolExecutor(1, "checkpoint")
        self.task = self.pool.submit(task)

    def check(self) -> None:
        """Raise the error of a task that has failed; return at once if it still runs."""
        if self.task is not None and self.task.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the task has ended, and raise its error."""
        task, self.task = self.task, None
        if task is not None:
            task.result()
