"""Several processes that share a batch over gloo, on the CPU."""

import os
import socket
from collections.abc import Callable

import torch
import torch.multiprocessing as mp
from accelerate import Accelerator

from dmd.distillation.parallel.workers import Workers


def start_together(work: Callable[..., None], processes: int, *arguments: object) -> None:
    """Run work(rank, processes, port, *arguments) in each of several new processes, and wait for them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    mp.start_processes(work, (processes, port, *arguments), nprocs=processes, start_method="spawn")


def join(rank: int, processes: int, port: int, parts: int = 1) -> Workers:
    """Join the other processes with one thread; each divides its share of a batch into `parts`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "1"}
    workers = Workers(Accelerator(cpu=True), parts)
    torch.set_num_threads(1)  # accelerate gives all cores to each process
    assert workers.accelerator.num_processes == processes
    return workers
