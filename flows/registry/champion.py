"""The alias `champion`: given by the gate, taken back by a rollback, or given by hand. What was is kept in tags."""

from typing import TYPE_CHECKING, Any

from dmd.config import GateConfig
from dmd.errors import UserError
from flows.registry.gate import Contender, Figures, best, verdict
from flows.registry.record import RESULT

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
FIGURES, VERDICT, WITHDRAWN = "gate.figures", "gate.verdict", "gate.withdrawn"  # tags of a version
HISTORY, BY_HAND = "champion.history", "champion.by_hand"  # tags of the model
ROUNDS = 5  # of looking again, where somebody else registers at the same moment


def settle(client: "MlflowClient", name: str, gate: GateConfig) -> None:
    """Give the alias to the version that deserves it, and each version a sentence about why it has it or not.

    Two who do this at once, on two machines, end alike: the choice depends on the versions alone, and each looks again.
    """
    for _ in range(ROUNDS):
        if not _settle_once(client, name, gate):
            return


def _settle_once(client: "MlflowClient", name: str, gate: GateConfig) -> bool:
    """True where the champion changed."""
    contenders, now = _contenders(client, name), champion(client, name)
    if by_hand := _model_tags(client, name).get(BY_HAND):
        said = {c.version: f"not compared: version {by_hand} is champion by hand" for c in contenders}
        said[by_hand] = "champion: by hand"
        chosen = None
    else:
        chosen = best(_comparable(contenders, now), gate)
        said = {c.version: verdict(c, chosen or c, gate) for c in contenders}
    changed = chosen is not None and _crown(client, name, chosen.version)
    for version, text in said.items():
        _explain(client, name, version, text)
    return changed


def _explain(client: "MlflowClient", name: str, version: str, text: str) -> None:
    """MLflow fails where two write the same new tag at once; then it is there, and may be written again."""
    from mlflow import MlflowException

    for attempt in range(ROUNDS):
        try:
            if client.get_model_version(name, version).tags.get(VERDICT) != text:
                client.set_model_version_tag(name, version, VERDICT, text)
            return
        except MlflowException:
            if attempt == ROUNDS - 1:
                raise


def champion(client: "MlflowClient", name: str) -> str | None:
    """The champion's version."""
    found = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if found is None else str(found)


def rollback(client: "MlflowClient", name: str) -> tuple[str, str]:
    """(withdrawn, champion again): the gate passes the withdrawn version over from now on. Raises UserError."""
    now, history = champion(client, name), _history(client, name)
    if now is None:
        raise UserError(f"{name} has no champion")
    former = [v for v in history if v != now and WITHDRAWN not in client.get_model_version(name, v).tags]
    if not former:
        raise UserError(f"{name} version {now} has no predecessor to go back to; --promote VERSION names one by hand")
    client.set_model_version_tag(name, now, WITHDRAWN, "rolled back")
    client.set_model_version_tag(name, now, VERDICT, f"withdrawn: rolled back to version {former[-1]}")
    client.set_registered_model_tag(name, HISTORY, ",".join(history[: history.index(former[-1])]))
    client.set_registered_model_alias(name, CHAMPION, former[-1])
    _release(client, name)
    return now, former[-1]


def promote(client: "MlflowClient", name: str, version: str, gate: GateConfig) -> str:
    """Make a version champion by hand, until `auto` gives the choice back to the gate. Returns the champion."""
    if version == "auto":
        _release(client, name)
        settle(client, name, gate)
        return champion(client, name) or "none"
    found = {str(v.version): v for v in client.search_model_versions(f"name = '{name}'")}
    if version not in found:
        raise UserError(f"{name} has no version {version}; it has {', '.join(sorted(found, key=int)) or 'none'}")
    if WITHDRAWN in found[version].tags:
        client.delete_model_version_tag(name, version, WITHDRAWN)
    _crown(client, name, version)
    client.set_registered_model_tag(name, BY_HAND, version)
    settle(client, name, gate)
    return version


def _crown(client: "MlflowClient", name: str, version: str) -> bool:
    """True where that changed anything."""
    before = champion(client, name)
    if before == version:
        return False
    if before is not None:
        client.set_registered_model_tag(name, HISTORY, ",".join([*_history(client, name), before]))
    client.set_registered_model_alias(name, CHAMPION, version)
    return True


def _release(client: "MlflowClient", name: str) -> None:
    if BY_HAND in _model_tags(client, name):
        client.delete_registered_model_tag(name, BY_HAND)


def _contenders(client: "MlflowClient", name: str) -> list[Contender]:
    versions = client.search_model_versions(f"name = '{name}'")
    able = [v for v in versions if v.status == "READY" and FIGURES in v.tags and WITHDRAWN not in v.tags]
    return [Contender(str(v.version), v.tags[RESULT], Figures.from_json(v.tags[FIGURES])) for v in able]


def _comparable(contenders: list[Contender], current: str | None) -> list[Contender]:
    """Those that were judged as the champion was; all, where there is none."""
    judges = next((c.figures.judges for c in contenders if c.version == current), None)
    if judges is None and contenders:
        judges = min(contenders, key=lambda c: int(c.version)).figures.judges
    return [c for c in contenders if c.figures.judges == judges]


def _history(client: "MlflowClient", name: str) -> list[str]:
    return [v for v in _model_tags(client, name).get(HISTORY, "").split(",") if v]


def _model_tags(client: "MlflowClient", name: str) -> dict[str, Any]:
    return client.get_registered_model(name).tags
