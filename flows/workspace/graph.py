"""DVC's graph, read from dvc.yaml, the only place that lists the stages and their dependencies."""

import graphlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from dvc.dvcfile import PROJECT_FILE
from dvc.exceptions import DvcException
from dvc.lock import LockError
from dvc.repo import Repo
from dvc.scm import SCMError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmd.errors import UserError
from flows.runtime.errors import one_line


class DvcBusyError(UserError):
    """Another DVC process holds the lock of the workspace."""


class PrefectMeta(BaseModel):
    """A stage's `meta: {prefect: ...}` in dvc.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    retries: int = Field(default=0, ge=0)
    timeout: float | None = Field(default=None, gt=0, description="seconds")
    tags: tuple[str, ...] = ()


class StageSpec(PrefectMeta):
    """One stage of dvc.yaml; `deps` are the stages whose outputs it reads."""

    name: str
    deps: tuple[str, ...]
    desc: str


def read_graph(root: Path) -> dict[str, StageSpec]:
    """Return every stage that has a command, in an order in which they can run. Raises UserError."""
    try:
        with Repo(str(root)) as repo:
            graph = repo.index.graph
            stages = {name_stage(s): s for s in repo.index.stages if s.cmd}
            deps = {
                name: tuple(sorted(name_stage(v) for v in graph.successors(s) if v.cmd)) for name, s in stages.items()
            }
            specs = {name: _read_spec(name, s.desc, s.meta, deps[name]) for name, s in stages.items()}
    except SCMError as e:
        raise UserError(f"DVC can't read the graph in {root}: {one_line(e)}; use git clone, not an archive") from e
    except (DvcException, OSError, KeyError) as e:
        raise UserError(f"DVC can't read the graph in {root}: {one_line(e)}") from e
    return {name: specs[name] for name in graphlib.TopologicalSorter(deps).static_order()}


def name_stage(stage: Any) -> str:
    """Return the name that DVC prints in the repository's root; `stage.addressing` depends on the working folder."""
    return stage.name if stage.path_in_repo == PROJECT_FILE else f"{stage.path_in_repo}:{stage.name}"


def _read_spec(name: str, desc: str | None, meta: dict[str, Any] | None, deps: tuple[str, ...]) -> StageSpec:
    try:
        settings = PrefectMeta.model_validate((meta or {}).get("prefect", {}))
    except ValidationError as e:
        problems = ", ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg'].lower()}" for x in e.errors())
        raise UserError(f"dvc.yaml: stage {name}: meta.prefect: {problems}") from e
    return StageSpec(name=name, desc=desc or "", deps=deps, **settings.model_dump())


def select_stages(graph: dict[str, StageSpec], target: str) -> list[str]:
    """Return `target` and the stages that it depends on, directly or not, in the order of `graph`.

    Raises UserError if there is no such stage.
    """
    if target not in graph:
        raise UserError(f"there is no stage {target!r} in dvc.yaml; it has {', '.join(graph)}")
    selected, todo = set(), [target]
    while todo:
        name = todo.pop()
        if name not in selected:
            selected.add(name)
            todo.extend(graph[name].deps)
    return [name for name in graph if name in selected]


def list_stale(root: Path) -> list[str]:
    """Return the stages that `dvc status` reports as different from dvc.lock. Raises UserError.

    Runs in this process, which takes tenths of a second.
    """
    try:
        with Repo(str(root)) as repo:
            return sorted(name.rpartition(":")[2] for name in repo.status())  # without the path to dvc.yaml
    except LockError as e:
        raise DvcBusyError(f"another DVC process works in {root}: {one_line(e)}") from e
    except (DvcException, SCMError) as e:
        raise UserError(f"DVC can't tell what has changed in {root}: {one_line(e)}") from e


def find_running(root: Path, stages: dict[str, StageSpec], force: Collection[str]) -> set[str]:
    """Return the stages that would run: those that have changed or are forced, and those that depend on them.

    Returns all while another DVC process works in the folder.
    """
    try:
        changed = {*list_stale(root), *force}
    except DvcBusyError:
        return set(stages)
    return {name for name in stages if changed & set(select_stages(stages, name))}


def is_up_to_date(root: Path) -> bool:
    """Return whether `dvc repro` would do nothing; False while another DVC process works in the folder."""
    try:
        return not list_stale(root)
    except DvcBusyError:
        return False
