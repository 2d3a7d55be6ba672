"""Lists the checks before a run, and runs them."""

import importlib.util
import locale
import os
from collections.abc import Iterator

from dmd.errors import ConfigError, UserError
from dmd.redaction import redact
from flows.preflight.networks import begin_checks, finish_checks
from flows.preflight.places import check_places
from flows.preflight.run import Check, Run, find_mistakes
from flows.registry.store import check_store


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


def check_result(run: Run) -> None:
    """Create the experiment in MLflow and look the model up. Raises UserError if MLflow does not take them."""
    names = {(p.register_.experiment, p.register_.name if run.registers else None) for p in run.params}
    for experiment, model in sorted(names, key=str) if run.publishes else ():
        check_store(run.root, experiment, model)


CHECKS: tuple[Check, ...] = (check_encoding, check_proxy, check_trackers, check_places)


def check_before(run: Run) -> None:
    """Run all checks before a run.

    Raises UserError with one line for each mistake; ConfigError, which is one, if a mistake is in the parameters.
    """
    begin_checks(run)
    found = [find_mistakes(CHECKS, run), finish_checks(run)]
    if lines := [line for mistakes in found for line in mistakes.lines]:
        raise (ConfigError if any(mistakes.in_parameters for mistakes in found) else UserError)("\n".join(lines))
    check_result(run)  # only now, since it writes into the store
