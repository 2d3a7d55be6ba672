"""A request to run the pipeline, checked against the project before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from dmd.config import Params, load_params, validate
from dmd.config_paths import load_run_params
from flows.pipeline.changes import Changes, change_params
from flows.pipeline.checks import check_run
from flows.pipeline.presets import Variant, check_complete, make_variants
from flows.pipeline.worktrees import check_committed
from flows.preflight.inputs import check_inputs
from flows.workspace.graph import StageSpec, find_running, read_graph, select_stages


@dataclass(frozen=True)
class Request:
    """The stages to run, and the folders to run them in."""

    root: Path
    stages: dict[str, StageSpec]  # by name, in an order in which they can run
    variants: list[Variant]  # each becomes an experiment; if empty, the project's folder is used with its params.yaml
    force: Sequence[str]  # stages that run even if nothing has changed
    partial: bool  # whether the stages end at a target, so that there is no result to publish
    preset: str | None = None

    def check_ready(self, registers: bool = True) -> str:
        """Return the commit that the experiments start from; "" without variants.

        Raises UserError if a key that a preset needs has no value, if the project has uncommitted changes, or if
        something is missing that the run needs later, with one line for each mistake.
        """
        from flows.preflight.checks import check_before  # these import torch, which takes seconds
        from flows.preflight.run import Run

        check_complete(self.variants)
        commit = check_committed(self.root) if self.variants else ""
        runs = set(self.stages) if self.variants else find_running(self.root, self.stages, self.force)
        check_before(
            Run(
                root=self.root,
                params=_list_params(self.root, self.variants),
                stages=frozenset(runs),
                in_place=not self.variants,
                publishes=not self.partial,
                registers=registers and not self.partial,
                preset=self.preset,
            )
        )
        return commit


def _list_params(root: Path, variants: Sequence[Variant]) -> list[Params]:
    """Return the parameters of each variant; those of the project's folder without variants."""
    if not variants:
        return [load_params(root / "params.yaml")]
    base = YAML(typ="safe").load(root / "params.yaml")
    return [validate(change_params(base, v.fill(root), v.experiment, root), v.experiment) for v in variants]


def read_request(
    root: Path, preset: str | None, overrides: Changes, seeds: Sequence[int], force: Sequence[str], target: str | None
) -> Request:
    """Read params.yaml, dvc.yaml and the preset.

    Raises UserError if params.yaml or dvc.yaml is invalid, if a stage, preset, key or value is not allowed, or if DVC
    cannot read what they name.
    """
    check_run(load_run_params(root / "params.yaml", root))
    variants = make_variants(root, preset, overrides, seeds)
    params = YAML(typ="safe").load(root / "params.yaml")
    changed = [change_params(params, v.fill(root), v.experiment, root) for v in variants]
    check_inputs(changed or [params], root, in_place=not variants)
    graph = read_graph(root)
    for stage in force:
        select_stages(graph, stage)
    names = select_stages(graph, target) if target else list(graph)
    stages = {name: graph[name] for name in names}
    return Request(root, stages, variants, force, partial=target is not None, preset=preset)
