"""What the files promise one another: dvc.yaml and the imports, dvc.yaml and params.yaml, the direction of imports."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dmd.config import Params, load_params
from tests.helpers.projects import ROOT

PACKAGES = ("dmd", "evaluation", "stages", "flows")
DVC = YAML(typ="safe").load(ROOT / "dvc.yaml")
STAGES = DVC["stages"]
# The schema holds no numbers: a field added to it must not train everything again.
NOT_DEPENDENCIES = {"dmd/config.py", "dmd/config_errors.py"}


def module_files(name: str) -> set[str]:
    """dmd.distillation.methods.dmd -> its file and the packages that are run on the way."""
    parts = name.split(".")
    files = {"/".join(parts[:i]) + "/__init__.py" for i in range(1, len(parts) + 1)} | {"/".join(parts) + ".py"}
    return {f for f in files if (ROOT / f).is_file()}


def imports(file: str) -> set[str]:
    """Project files that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        for name in names:
            if name.split(".")[0] in PACKAGES:
                found |= module_files(name)
    return found


def closure(file: str) -> set[str]:
    """A file and everything it imports, directly or not."""
    done: set[str] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= imports(current) - done
    return done


def code_dependencies(stage: str) -> set[str]:
    return (closure(f"stages/{stage}.py") | module_files("stages")) - NOT_DEPENDENCIES


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_cache_remembers_a_stage(stage: str) -> None:
    """DVC's does so only where every output is cached, or a metric or a plot."""
    assert all(isinstance(out, str) for out in STAGES[stage].get("outs", []))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_it_imports(stage: str) -> None:
    declared = {d for d in STAGES[stage]["deps"] if d.endswith(".py")}
    assert declared == code_dependencies(stage)


def test_the_report_depends_on_its_template() -> None:
    templates = {
        "evaluation/report/templates/report.html.j2",
        "evaluation/report/templates/style.css",
    }  # compare.html.j2 belongs to no stage
    assert all((ROOT / name).is_file() for name in templates) and templates <= set(STAGES["evaluate"]["deps"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_paths_on_its_command_line(stage: str) -> None:
    """Every path of the command is a dependency or an output, and every output is written by the command."""
    words = STAGES[stage]["cmd"].split()
    start = ["${train.launcher}"] if stage == "train" else ["python", "-m"]
    assert words[: len(start) + 1] == [*start, f"stages.{stage}"]
    paths = {w for w in words[len(start) + 1 :] if not w.startswith("--")}
    keys = ("outs", "metrics", "plots")
    outs = {o if isinstance(o, str) else next(iter(o)) for key in keys for o in STAGES[stage].get(key, [])}
    data = {d for d in STAGES[stage]["deps"] if d.startswith(("artifacts/", "reports/"))}
    assert paths == outs | data


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_groups_it_reads(stage: str) -> None:
    """`params.<group>` in the stage's file, and runtime, which every stage reads."""
    read = {"runtime"}
    for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params":
            read.add(node.attr)
    assert set(STAGES[stage]["params"]) == read


@pytest.mark.parametrize("stage", ["data", "teacher", "evaluator"])
def test_an_external_folder_is_a_dependency(stage: str) -> None:
    assert f"${{{stage}.folder}}" in STAGES[stage]["deps"]


def test_every_group_is_of_a_stage_or_of_the_flow() -> None:
    groups = {f.alias or name for name, f in Params.model_fields.items()}
    used = {g for s in STAGES.values() for g in s["params"]}
    assert groups - used == {"register"}


def test_every_stage_says_how_prefect_runs_it() -> None:
    for name, stage in STAGES.items():
        assert set(stage["meta"]["prefect"]) == {"retries", "timeout", "tags"}, name
        assert stage["desc"], name


def test_the_default_parameters_are_valid() -> None:
    assert load_params(ROOT / "params.yaml").method.name == "dmd"


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package: str) -> None:
    """flows -> stages -> evaluation -> dmd; the library knows no tool of the pipeline."""
    allowed = {"dmd": 0, "evaluation": 1, "stages": 2, "flows": 3}
    foreign = {"dvc", "prefect", "mlflow"} if package != "flows" else set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in (n.split(".")[0] for n in names):
                assert allowed.get(top, 0) <= allowed[package], f"{file.relative_to(ROOT)} imports {top}"
                assert top not in foreign, f"{file.relative_to(ROOT)} imports {top}"


def test_no_artifact_is_a_pickle() -> None:
    """Nothing in the project writes or reads one, apart from resumable state, read with weights_only, and the reader
    of edm's checkpoints, which admits plain data alone (tests/test_edm_checkpoints.py)."""
    for file in (f for p in PACKAGES for f in (ROOT / p).rglob("*.py")):
        text = file.read_text()
        assert "import pickle" not in text or file == ROOT / "dmd/edm/pickles.py", file
        assert "allow_pickle=True" not in text, file
        assert "torch.save" not in text or file == ROOT / "dmd/storage/checkpoint.py", file
        assert "torch.load(" not in text or "weights_only=True" in text, file


def main() -> None:
    """`python tests/test_contracts.py`: what the code dependencies in dvc.yaml should be."""
    for stage in STAGES:
        print(f"{stage}:", *(f"      - {d}" for d in sorted(code_dependencies(stage))), sep="\n")


if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    main()
