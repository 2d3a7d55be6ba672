"""A request to run the pipeline, checked against the project before any work."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dmd.config import Params, load_params, validate
from dmd.config_paths import load_run_params
from flows.pipeline.changes import Changes, change_params
from flows.pipeline.presets import Variant, check_complete, make_variants, read_base
from flows.pipeline.worktrees import check_committed, leave_out_changes
from flows.preflight.checks import check_before
from flows.preflight.inputs import check_inputs
from flows.preflight.networks import check_methods
from flows.preflight.run import Run
from flows.registry.gate import check_gate
from flows.workspace import dvc_lock
from flows.workspace.graph import StageSpec, find_running, read_graph, select_stages

OPTION = ", or leave them out of this run (--from-commit)"  # a remedy for uncommitted changes


@dataclass(frozen=True)
class Request:
    """The stages to run, and the folders to run them in."""

    root: Path
    stages: dict[str, StageSpec]  # by name, in an order in which they can run
    variants: list[Variant]  # each becomes an experiment; if empty, the project's folder is used with its params.yaml
    force: Sequence[str]  # stages that run even if nothing has changed
    target: str | None  # the last stage, without which there is no result to publish; None for all stages
    preset: str | None = None
    from_commit: bool = False  # whether the experiments leave out what has changed since the last commit

    def check_ready(self, registers: bool = True) -> str:
        """Return the commit that the experiments start from; "" without variants.

        Raises UserError if a key that a preset needs has no value, if the project has uncommitted changes, or if
        something is missing that the run needs later, with one line for each mistake.
        """
        commit = self.find_commit()
        check_before(self.describe(registers))
        return commit

    def find_commit(self) -> str:
        """Do the checks of `check_ready` that take no time. Returns the commit, and raises UserError, as it does."""
        check_complete(self.variants)
        if not self.variants:
            return ""
        return leave_out_changes(self.root) if self.from_commit else check_committed(self.root, OPTION)

    def check_methods(self) -> None:
        """Check that the methods accept their parameters, as `check_ready` does. Raises ConfigError."""
        list(check_methods(self._describe(self.stages, registers=False)))

    def describe(self, registers: bool) -> Run:
        """Return what the checks look at, with the stages that will run."""
        runs = set(self.stages) if self.variants else find_running(self.root, self.stages, self.force)
        return self._describe(runs, registers)

    def _describe(self, stages: Iterable[str], registers: bool) -> Run:
        return Run(
            root=self.root,
            params=self._list_params(),
            stages=frozenset(stages),
            in_place=not self.variants,
            publishes=self.target is None,
            registers=registers and self.target is None,
            preset=self.preset,
        )

    def _list_params(self) -> list[Params]:
        """Return the parameters of each variant; those of the project's folder without variants."""
        if not self.variants:
            return [load_params(self.root / "params.yaml")]
        base, root = read_base(self.root, self.from_commit), self.root
        changed = {v.experiment: change_params(base, v.fill(root), v.experiment, root) for v in self.variants}
        return [validate(params, experiment) for experiment, params in changed.items()]


def read_request(
    root: Path,
    preset: str | None,
    overrides: Changes,
    seeds: Sequence[int],
    force: Sequence[str],
    target: str | None,
    from_commit: bool = False,
) -> Request:
    """Read params.yaml, dvc.yaml and the preset. A dvc.lock that was cut off is repaired, with a note.

    Raises UserError if params.yaml or dvc.yaml is invalid, if a stage, preset, key or value is not allowed, or if DVC
    cannot read what they name.
    """
    check_gate(load_run_params(root / "params.yaml", root).register_.gate)
    variants = make_variants(root, preset, overrides, seeds, from_commit)
    params = read_base(root, from_commit and bool(variants))
    changed = [change_params(params, v.fill(root), v.experiment, root) for v in variants]
    check_inputs(changed or [params], root, in_place=not variants)
    if note := dvc_lock.repair(root):
        print(f"note: {note}", file=sys.stderr, flush=True)
    graph = read_graph(root)
    for stage in force:
        select_stages(graph, stage)
    names = select_stages(graph, target) if target else list(graph)
    stages = {name: graph[name] for name in names}
    return Request(root, stages, variants, force, target, preset, from_commit)
