"""The alias `champion` of a registered model, which the gate, a rollback or a user moves between versions.

Tags of the model and of its versions hold the history.
"""

from typing import TYPE_CHECKING, Any

from dmd.config import GateConfig
from dmd.errors import UserError
from flows.registry.gate import Contender, Figures, check_gate, choose, explain
from flows.registry.result import RESULT
from flows.registry.store import write_beside_others

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
    """Let the gate choose once; return whether the champion changed."""
    contenders, current = _contenders(client, name), champion(client, name)
    if by_hand := _model_tags(client, name).get(BY_HAND):
        verdicts = {c.version: f"not compared: version {by_hand} is champion by hand" for c in contenders}
        verdicts[by_hand] = "champion: by hand"
        choice = None
    else:
        choice = choose(_comparable(contenders, current), gate)
        verdicts = {c.version: explain(c, choice or c, gate) for c in contenders}
    has_changed = choice is not None and _set_alias(client, name, choice.version)
    for version, text in verdicts.items():
        _set_verdict(client, name, version, text)
    return has_changed


def _set_verdict(client: "MlflowClient", name: str, version: str, text: str) -> None:
    if client.get_model_version(name, version).tags.get(VERDICT) != text:
        write_beside_others(lambda: client.set_model_version_tag(name, version, VERDICT, text))


def champion(client: "MlflowClient", name: str) -> str | None:
    """Number of the champion's version; None if there is no champion."""
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else str(version)


def rollback(client: "MlflowClient", name: str) -> tuple[str, str]:
    """Withdraw the champion and restore its predecessor; return both versions, (withdrawn, restored).

    The gate ignores a withdrawn version. Raises UserError if there is no champion or no predecessor.
    """
    current, history = champion(client, name), _history(client, name)
    if current is None:
        raise UserError(f"{name} has no champion, so there is nothing to roll back; --promote VERSION sets one by hand")
    former = [v for v in history if v != current and WITHDRAWN not in client.get_model_version(name, v).tags]
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
    versions = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
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
        history = ",".join([*_history(client, name), before])
        write_beside_others(lambda: client.set_registered_model_tag(name, HISTORY, history))
    write_beside_others(lambda: client.set_registered_model_alias(name, CHAMPION, version))
    return True


def _clear_by_hand(client: "MlflowClient", name: str) -> None:
    if BY_HAND in _model_tags(client, name):
        client.delete_registered_model_tag(name, BY_HAND)


def _contenders(client: "MlflowClient", name: str) -> list[Contender]:
    versions = client.search_model_versions(f"name = '{name}'")
    eligible = [v for v in versions if v.status == "READY" and FIGURES in v.tags and WITHDRAWN not in v.tags]
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
