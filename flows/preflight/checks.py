"""Lists the checks before a run, and runs them."""

import importlib.util
import locale
import os
from collections.abc import Callable, Collection, Iterator

from dmd.config import Params
from dmd.errors import ConfigError, UserError
from dmd.launch import processes_of_a_machine
from dmd.redaction import redact
from flows.preflight.places import check_places
from flows.preflight.room import check_room
from flows.preflight.run import Run
from flows.registry.store import check_store

SHARED = frozenset({"encode", "baseline", "pairs", "evaluate"})  # stages that runtime.processes share


def check_encoding(_run: Run) -> Iterator[str]:
    """Check that Python reads and writes files as UTF-8."""
    if locale.getencoding().lower().replace("-", "") != "utf8":
        yield f"the locale's encoding is {locale.getencoding()}; export PYTHONUTF8=1 and run again"


def check_proxy(_run: Run) -> Iterator[str]:
    """Check that the clients of Prefect and of the hub can use a SOCKS proxy; they open it also for local addresses."""
    for name in ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY"):
        value = os.environ.get(name.lower()) or os.environ.get(name) or ""
        if value.startswith("socks") and importlib.util.find_spec("socksio") is None:
            yield f"{name}: {redact(value)} is a SOCKS proxy; pip install 'httpx[socks]', or unset {name}"


def check_trackers(run: Run) -> Iterator[str]:
    """Check that the packages of the trackers are installed."""
    for name in dict.fromkeys(name for params in run.params for name in params.register_.trackers):
        if importlib.util.find_spec(name) is None:
            yield f"register.trackers: {name} is not installed; pip install '.[{name}]', or take it out of the list"


def check_methods(run: Run) -> Iterator[str]:
    """Check that the method of every variant accepts its parameters."""
    if "train" in run.stages:
        from dmd.distillation.methods import check_method  # imports torch and diffusers, which takes seconds

        for params in run.params:
            check_method(params)
    yield from ()


def check_device(run: Run) -> Iterator[str]:
    """Check that the device of every variant exists, with a GPU for each process of this machine."""
    from dmd.device import choose_device  # imports torch, which takes seconds

    mistakes: list[str] = []
    for params in run.params:
        if choose_device(params.runtime.device).type == "cuda":
            mistakes += _find_missing_gpus(params, run.stages)
    yield from dict.fromkeys(mistakes)


def _find_missing_gpus(params: Params, stages: Collection[str]) -> Iterator[str]:
    """Yield a line for each kind of process of which there are more than GPUs."""
    import torch

    train, gpus = params.train, torch.cuda.device_count()
    needed = {"runtime.processes": params.runtime.processes} if SHARED.intersection(stages) else {}
    if "train" in stages:
        needed["train.processes"] = processes_of_a_machine(train.launcher, train.processes, train.launcher_options)
    for key, count in needed.items():
        if count > gpus:
            yield (
                f"{key}: {count} processes of this machine need a GPU each, and it has {gpus}; set {key} to {gpus}, "
                "or CUDA_VISIBLE_DEVICES to more GPUs"
            )


def check_result(run: Run) -> None:
    """Create the experiment in MLflow and look the model up. Raises UserError if MLflow does not take them."""
    names = {(p.register_.experiment, p.register_.name if run.registers else None) for p in run.params}
    for experiment, model in sorted(names, key=str) if run.publishes else ():
        check_store(run.root, experiment, model)


# A check yields one line for each mistake (what, where, what to do), or raises UserError.
CHECKS: tuple[Callable[[Run], Iterator[str]], ...] = (
    check_encoding,
    check_proxy,
    check_trackers,
    check_methods,
    check_device,
    check_places,
    check_room,
)


def check_before(run: Run) -> None:
    """Run all checks before a run.

    Raises UserError with one line for each mistake; ConfigError, which is one, if a mistake is in the parameters.
    """
    mistakes: list[str] = []
    kind = UserError
    for check in CHECKS:
        try:
            mistakes += check(run)
        except UserError as e:
            mistakes += str(e).splitlines()
            kind = ConfigError if isinstance(e, ConfigError) else kind
    if mistakes:
        raise kind("\n".join(mistakes))
    check_result(run)  # only now, since it writes into the store
