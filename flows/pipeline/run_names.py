"""Names of flow runs in Prefect, after the experiments that they make."""

from pathlib import Path

from prefect.runtime import flow_run

from flows.pipeline.presets import make_variants
from flows.runtime.environment import project_root

WORKSPACE = "workspace"  # a run without changes makes no experiment


def name_distill_run() -> str:
    """Name a run of `distill` after its first experiment and the number of the others."""
    given = flow_run.parameters
    try:
        changes = given.get("preset") or None, given.get("overrides") or {}, given.get("seeds") or []
        variants = make_variants(project_root(), *changes, from_commit=bool(given.get("from_commit")))
    except Exception:  # a name is no reason to fail; the flow itself reports the mistake
        return str(given.get("preset") or WORKSPACE)
    if not variants:
        return WORKSPACE
    others = len(variants) - 1
    return variants[0].experiment + (f" and {others} more" if others else "")


def name_ablation_run() -> str:
    """Name a run of `ablate` or `search` after its file."""
    return Path(str(flow_run.parameters["file"])).stem
