"""Lists the checks before a run, and runs them."""

import importlib.util
import locale
import os
from collections.abc import Iterator

from dmd.errors import ConfigError, UserError
from dmd.redaction import redact
from flows.preflight.migration import begin_migration, finish_migration
from flows.preflight.networks import begin_checks, finish_checks
from flows.preflight.places import check_places
from flows.preflight.run import Check, Mistakes, Run, find_mistakes
from flows.registry.store import check_reachable, check_store, tracking_uri
from flows.services.prefect_address import check_prefect


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


def check_servers(run: Run) -> Iterator[str]:
    """Check that the servers that the environment names answer."""
    if run.publishes:
        check_reachable(tracking_uri(run.root))
    check_prefect(os.environ.get("PREFECT_API_URL", ""))
    yield from ()


CHECKS: tuple[Check, ...] = (check_encoding, check_proxy, check_trackers, check_places, check_servers)


def begin_before(run: Run) -> None:
    """Run the checks that take no time, and begin those that take seconds. Raises as `check_before`."""
    _refuse(find_mistakes(CHECKS, run))
    begin_checks(run)
    begin_migration(run)


def check_before(run: Run) -> None:
    """Run all checks before a run; those that take seconds count only if the others find no mistake.

    Raises UserError with one line for each mistake; ConfigError, which is one, if a mistake is in the parameters.
    """
    begin_before(run)
    finish_migration()  # it takes less time than the checks of networks
    _refuse(finish_checks(run))
    check_result(run)  # only now, since it writes into the store


def _refuse(found: Mistakes) -> None:
    if found.lines:
        raise (ConfigError if found.in_parameters else UserError)("\n".join(found.lines))
