"""The alias `champion` of a registered model, which the gate, a rollback or a user moves between versions.

Tags of the model and of its versions hold the history.
"""

from typing import TYPE_CHECKING, Any

from dmd.config import GateConfig
from dmd.errors import UserError
from flows.registry.gate import Contender, Figures, check_gate, choose, explain, missed_limit
from flows.registry.result import RESULT
from flows.registry.store import write_beside_others

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
FIGURES, VERDICT, WITHDRAWN = "gate.figures", "gate.verdict", "gate.withdrawn"  # tags of a version
HISTORY, BY_HAND = "champion.history", "champion.by_hand"  # tags of the model
ATTEMPTS = 5  # for the case that another process registers at the same time


def settle(client: "MlflowClient", name: str, gate: GateConfig) -> None:
    """Give the alias to the version that the gate chooses, and write the reason into a tag of each version.

    Two processes that do this at the same time agree on the champion: the choice depends on the versions alone, and
    each process repeats it until nothing changes.
    """
    check_gate(gate)
    for _ in range(ATTEMPTS):
        if not _settle_once(client, name, gate):
            return


def _settle_once(client: "MlflowClient", name: str, gate: GateConfig) -> bool:
    """Let the gate choose once; return whether the champion changed.

    A mark by hand on a version that was deleted is removed.
    """
    versions = _versions(client, name)
    contenders, current = _contenders(versions), champion(client, name)
    by_hand = _model_tags(client, name).get(BY_HAND)
    if by_hand and by_hand not in versions:
        _clear_by_hand(client, name)
        by_hand = None
    if by_hand:
        verdicts = {c.version: f"not compared: version {by_hand} is champion by hand" for c in contenders}
        verdicts[by_hand] = "champion: by hand"
        choice = None
    else:
        compared = _comparable(contenders, current)
        choice = choose(compared, gate)
        verdicts = {c.version: explain(c, choice, gate, compared) for c in contenders}
    if choice is not None:
        has_changed = _set_alias(client, name, choice.version)
    else:
        has_changed = not by_hand and _remove_refused(client, name, contenders, current, gate)
    for version, text in verdicts.items():
        _set_verdict(client, name, version, text)
    return has_changed


def _remove_refused(
    client: "MlflowClient", name: str, contenders: list[Contender], current: str | None, gate: GateConfig
) -> bool:
    """Take the alias from a champion that misses a limit, as after a change of the limits; return whether it did."""
    if not any(c.version == current and missed_limit(c.figures, gate) for c in contenders):
        return False
    _record(client, name, str(current))
    client.delete_registered_model_alias(name, CHAMPION)
    return True


def _set_verdict(client: "MlflowClient", name: str, version: str, text: str) -> None:
    if client.get_model_version(name, version).tags.get(VERDICT) != text:
        write_beside_others(lambda: client.set_model_version_tag(name, version, VERDICT, text))


def champion(client: "MlflowClient", name: str) -> str | None:
    """Number of the champion's version; None if there is no champion, or if its version was deleted."""
    version = str(client.get_registered_model(name).aliases.get(CHAMPION))
    return version if version in _versions(client, name) else None


def rollback(client: "MlflowClient", name: str) -> tuple[str, str]:
    """Withdraw the champion and restore its predecessor; return both versions, (withdrawn, restored).

    The gate ignores a withdrawn version, and a version that was deleted is passed by. Raises UserError if there is no
    champion or no predecessor.
    """
    current, history, versions = champion(client, name), _history(client, name), _versions(client, name)
    if current is None:
        raise UserError(f"{name} has no champion, so there is nothing to roll back; --promote VERSION sets one by hand")
    former = [v for v in history if v != current and v in versions and WITHDRAWN not in versions[v].tags]
    if not former:
        raise UserError(f"{name} version {current} has no predecessor to restore; --promote VERSION sets one by hand")
    client.set_model_version_tag(name, current, WITHDRAWN, "rolled back")
    client.set_model_version_tag(name, current, VERDICT, f"withdrawn: rolled back to version {former[-1]}")
    before = len(history) - 1 - history[::-1].index(former[-1])  # a version can have been champion more than once
    client.set_registered_model_tag(name, HISTORY, ",".join(history[:before]))
    client.set_registered_model_alias(name, CHAMPION, former[-1])
    _clear_by_hand(client, name)
    return current, former[-1]


def promote(client: "MlflowClient", name: str, version: str, gate: GateConfig) -> str:
    """Make a version champion by hand and return it; the version `auto` lets the gate choose again.

    Raises UserError if the model has no such version.
    """
    if version == "auto":
        _clear_by_hand(client, name)
        settle(client, name, gate)
        return champion(client, name) or "none"
    versions = _versions(client, name)
    if version not in versions:
        raise UserError(f"{name} has no version {version}; it has {', '.join(sorted(versions, key=int)) or 'none'}")
    if WITHDRAWN in versions[version].tags:
        client.delete_model_version_tag(name, version, WITHDRAWN)
    _set_alias(client, name, version)
    client.set_registered_model_tag(name, BY_HAND, version)
    settle(client, name, gate)
    return version


def _set_alias(client: "MlflowClient", name: str, version: str) -> bool:
    """Make a version champion and record its predecessor; return whether the champion changed."""
    before = champion(client, name)
    if before == version:
        return False
    if before is not None:
        _record(client, name, before)
    write_beside_others(lambda: client.set_registered_model_alias(name, CHAMPION, version))
    return True


def _record(client: "MlflowClient", name: str, former: str) -> None:
    """Add a version that is no longer champion to the history."""
    history = ",".join([*_history(client, name), former])
    write_beside_others(lambda: client.set_registered_model_tag(name, HISTORY, history))


def _clear_by_hand(client: "MlflowClient", name: str) -> None:
    if BY_HAND in _model_tags(client, name):
        client.delete_registered_model_tag(name, BY_HAND)


def _versions(client: "MlflowClient", name: str) -> "dict[str, ModelVersion]":
    """The versions by their number, without those that were deleted."""
    return {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}


def _contenders(versions: "dict[str, ModelVersion]") -> list[Contender]:
    eligible = [v for v in versions.values() if v.status == "READY" and FIGURES in v.tags and WITHDRAWN not in v.tags]
    return [Contender(str(v.version), v.tags[RESULT], Figures.from_json(v.tags[FIGURES])) for v in eligible]


def _comparable(contenders: list[Contender], current: str | None) -> list[Contender]:
    """Contenders with the evaluation protocol of the champion, or of the first version if there is no champion."""
    protocol = next((c.figures.protocol for c in contenders if c.version == current), None)
    if protocol is None and contenders:
        protocol = min(contenders, key=lambda c: int(c.version)).figures.protocol
    return [c for c in contenders if c.figures.protocol == protocol]


def _history(client: "MlflowClient", name: str) -> list[str]:
    return [v for v in _model_tags(client, name).get(HISTORY, "").split(",") if v]


def _model_tags(client: "MlflowClient", name: str) -> dict[str, Any]:
    return client.get_registered_model(name).tags
