"""A request to run the pipeline, checked against the project before any work."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dmd.config_paths import load_run_params
from flows.pipeline.changes import Changes
from flows.pipeline.checks import check_run
from flows.pipeline.presets import Variant, check_complete, make_variants
from flows.pipeline.worktrees import check_committed
from flows.workspace.graph import StageSpec, read_graph, select_stages


@dataclass(frozen=True)
class Request:
    """The stages to run, and the folders to run them in."""

    root: Path
    stages: dict[str, StageSpec]  # by name, in an order in which they can run
    variants: list[Variant]  # each becomes an experiment; if empty, the project's folder is used with its params.yaml
    force: Sequence[str]  # stages that run even if nothing has changed
    partial: bool  # whether the stages end at a target, so that there is no result to publish

    def check_ready(self) -> str:
        """Return the commit that the experiments start from; "" without variants.

        Raises UserError if a key that a preset needs has no value, or if the project has uncommitted changes.
        """
        check_complete(self.variants)
        return check_committed(self.root) if self.variants else ""


def read_request(
    root: Path, preset: str | None, overrides: Changes, seeds: Sequence[int], force: Sequence[str], target: str | None
) -> Request:
    """Read params.yaml, dvc.yaml and the preset.

    Raises UserError if params.yaml or dvc.yaml is invalid, or if a stage, preset, key or value is not allowed.
    """
    check_run(load_run_params(root / "params.yaml", root))
    variants = make_variants(root, preset, overrides, seeds)
    graph = read_graph(root)
    for stage in force:
        select_stages(graph, stage)
    names = select_stages(graph, target) if target else list(graph)
    return Request(root, {name: graph[name] for name in names}, variants, force, partial=target is not None)
