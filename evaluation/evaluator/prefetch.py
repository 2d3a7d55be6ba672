"""Generate the next batch of images in a thread while the features of the previous batch are computed."""

import queue
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def prefetch(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the batches in order, each computed ahead of its use. Raises any exception of the thread in the caller."""
    results: queue.Queue[Tensor | BaseException | None] = queue.Queue(maxsize=1)
    stop = threading.Event()
    threads = torch.get_num_threads()

    def produce() -> None:
        torch.set_num_threads(threads)  # OpenMP keeps the number of threads separately for each calling thread
        try:
            for batch in batches:
                results.put(batch)
                if stop.is_set():
                    return
            results.put(None)
        except BaseException as e:
            results.put(e)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (batch := results.get()) is not None:
            if isinstance(batch, BaseException):
                raise batch
            yield batch
    finally:
        stop.set()
        while not results.empty():
            results.get()
        thread.join()
