"""dvc.yaml agrees with the imports of the stages, with their command lines and with params.yaml."""

import ast
import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dmd.config import Params, load_params
from tests.helpers.imports import PACKAGES, closure, holds_code, modules, tree
from tests.helpers.projects import ROOT, copy_of_the_project, run

DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = DVC["stages"]
OUT_KEYS = ("outs", "metrics", "plots")

# Stages that run again after an edit in a folder. Later stages follow only if an output changes.
STALE = {
    "dmd/preparation": "data",
    "dmd/data": "data teacher encode evaluator trunk baseline pairs train evaluate",
    "dmd/storage": "data teacher encode evaluator trunk baseline pairs train evaluate",
    "dmd/teacher_training": "teacher",
    "dmd/diffusion": "teacher baseline pairs train evaluate",
    "dmd/networks": "teacher encode baseline pairs train evaluate",
    "dmd/codecs": "teacher encode baseline pairs train evaluate",
    "dmd/training": "teacher encode evaluator trunk baseline pairs train evaluate",
    "dmd/families": "encode baseline pairs train evaluate",
    "dmd/encoding": "encode baseline pairs train evaluate",
    "dmd/teachers": "baseline pairs train evaluate",
    "dmd/samplers": "baseline pairs train evaluate",
    "dmd/features": "trunk baseline train evaluate",
    "dmd/trunk_training": "trunk",
    "evaluation/comparing": "",
    "dmd/distillation": "train",
    "dmd/generator": "train evaluate",
    "dmd/edm": "",
    "dmd/engines": "",
    "evaluation/models": "evaluator baseline train evaluate",
    "evaluation/statistics": "baseline train evaluate",
    "evaluation/features": "baseline evaluate",
    "evaluation/judges": "baseline evaluate",
    "evaluation/metrics": "baseline evaluate",
    "evaluation/evaluator": "baseline evaluate",
    "evaluation/validation": "train",
    "evaluation/timing": "evaluate",
    "evaluation/report": "evaluate",
}
# Modules directly in dmd/ that stages import. They do not affect results, so an edit in them makes no stage stale.
WITHOUT_NUMBERS = {
    "config",
    "config_changes",
    "config_errors",
    "config_paths",
    "debug",
    "device",
    "errors",
    "launch",
    "progress",
    "redaction",
    "signals",
    "yaml_files",
}
# Code on which no result of its stage depends: a new reader of foreign checkpoints must not retrain this project's own
# teacher, and the pictures of a teacher in training are only shown.
LAZY = frozenset(
    {("stages/teacher.py", f"dmd/teachers/{name}.py") for name in ("__init__", "fetch")}
    | {("dmd/teacher_training/watching.py", f"dmd/{name}.py") for name in (
        "generator/__init__", "generator/pictures", "samplers/__init__", "samplers/ddim", "samplers/sampler")}
)  # fmt: skip


def needed_code(stage: str) -> set[str]:
    """The files that a stage imports and must declare, as files or by their folder."""
    files = closure(f"stages/{stage}.py", without=LAZY)
    return {f for f in files if holds_code(f) and not (f.startswith("dmd/") and f.count("/") == 1)}


def declared_code(stage: str) -> set[str]:
    """The files and folders of code among the dependencies of a stage."""
    return {d for d in STAGES[stage]["deps"] if d.split("/")[0] in PACKAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_remembers_a_stage(stage: str) -> None:
    """DVC's run cache keeps a stage only if every output is cached, or is a metric or a plot."""
    assert all(isinstance(out, str) for out in STAGES[stage].get("outs", []))


@pytest.mark.parametrize("stage", STAGES)
def test_everything_a_stage_imports_lies_in_a_folder_that_it_declares(stage: str) -> None:
    declared = declared_code(stage)
    assert [f for f in sorted(needed_code(stage)) if not any(f == d or f.startswith(f"{d}/") for d in declared)] == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_uses_every_folder_that_it_declares(stage: str) -> None:
    needed = needed_code(stage)
    assert [d for d in sorted(declared_code(stage)) if not any(f == d or f.startswith(f"{d}/") for f in needed)] == []
    assert [d for d in declared_code(stage) if not (ROOT / d).exists()] == []


def test_the_list_of_modules_directly_in_dmd_is_complete() -> None:
    imported = {f for stage in STAGES for f in closure(f"stages/{stage}.py") if f.count("/") == 1}
    assert {Path(f).stem for f in imported if f.startswith("dmd/")} - {"__init__"} == WITHOUT_NUMBERS


def test_an_edit_in_a_folder_makes_the_stages_of_the_table_stale() -> None:
    folders = {
        f"{p}/{d.name}" for p in ("dmd", "evaluation") for d in (ROOT / p).iterdir() if (d / "__init__.py").is_file()
    }
    assert folders == set(STALE)
    for folder, stages in STALE.items():
        assert [name for name in STAGES if folder in declared_code(name)] == stages.split(), folder


@pytest.mark.slow
def test_dvc_finds_the_stages_of_the_table_stale(tmp_path: Path) -> None:
    """Compare with `dvc status` in a copy with stand-ins for outputs, after a new file in a folder or a module."""
    project = copy_of_the_project(tmp_path / "project")
    for stage in STAGES.values():
        for out in (o if isinstance(o, str) else next(iter(o)) for key in OUT_KEYS for o in stage.get(key, [])):
            file = project / (out if Path(out).suffix else f"{out}/file")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(out)
    run(project, "-m", "dvc", "commit", "--force", "--quiet")

    def stale() -> list[str]:
        return list(json.loads(run(project, "-m", "dvc", "status", "--json").stdout))

    assert stale() == []
    new = ("dmd/samplers", "dmd/families", "dmd/codecs", "evaluation/metrics", "evaluation/features", "dmd/edm")
    for folder in new:
        (project / folder / "new.py").write_text("NEW = 1\n")
        assert sorted(stale()) == sorted(STALE[folder].split()), folder
        (project / folder / "new.py").unlink()
    for name in WITHOUT_NUMBERS:
        with (project / f"dmd/{name}.py").open("a") as file:
            file.write("NEW = 1\n")
    assert stale() == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_paths_on_its_command_line(stage: str) -> None:
    """Every path of the command is a dependency or an output, and the command writes every output."""
    words = STAGES[stage]["cmd"].split()
    assert words[:3] == ["python", "-m", f"stages.{stage}"]
    paths = {w for w in words[3:] if not w.startswith("--")}
    outs = {o if isinstance(o, str) else next(iter(o)) for key in OUT_KEYS for o in STAGES[stage].get(key, [])}
    data = {d for d in STAGES[stage]["deps"] if d.startswith(("artifacts/", "reports/"))}
    assert paths == outs | data


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_groups_it_reads(stage: str) -> None:
    """A stage reads `params.<group>` in its own file, and every stage reads `runtime`."""
    read = {"runtime"}
    for node in ast.walk(tree(f"stages/{stage}.py")):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params":
            read.add(node.attr)
    assert set(STAGES[stage]["params"]) == read


@pytest.mark.parametrize("stage", ["data", "teacher", "evaluator"])
def test_an_external_folder_is_a_dependency(stage: str) -> None:
    assert f"${{{stage}.folder}}" in STAGES[stage]["deps"]


def test_every_group_belongs_to_a_stage_or_to_the_flow() -> None:
    groups = {f.alias or name for name, f in Params.model_fields.items()}
    used = {g for s in STAGES.values() for g in s["params"]}
    assert groups - used == {"register"}


def test_every_stage_has_a_description_and_settings_for_prefect() -> None:
    for name, stage in STAGES.items():
        assert set(stage["meta"]["prefect"]) == {"retries", "timeout", "tags"}, name
        assert stage["desc"], name


def test_the_default_parameters_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").method.name == "dmd"


def test_no_artifact_is_a_pickle() -> None:
    """Only the checkpoints of a run are pickles, and they are read with weights_only.

    Only the reader of edm's checkpoints opens foreign pickles, and it admits only plain data.
    """
    for file in (f for package in PACKAGES for f in modules(package)):
        text = (ROOT / file).read_text()
        assert "import pickle" not in text or file == "dmd/edm/pickles.py", file
        assert "allow_pickle=True" not in text, file
        assert "torch.save" not in text or file == "dmd/storage/checkpoint.py", file
        assert "torch.load(" not in text or "weights_only=True" in text, file
