"""Imports go in one direction, between the packages and between the folders of a package."""

import pytest

from tests.helpers.imports import PACKAGES, closure, imported_names, imports, modules
from tests.helpers.projects import ROOT

TOOLS = {"dvc", "prefect", "mlflow"}
# Each line imports only from the lines below it; names on the same line do not import each other.
LAYERS = {
    "dmd": """
        sample library
        engines
        distillation preparation teacher_training trunk_training edm
        generator encoding
        teachers
        families samplers
        codecs
        diffusion
        networks data training features
        storage
        config_paths config_reference
        config device progress
        config_changes config_errors launch yaml_files
        debug
        errors redaction signals
    """,
    "evaluation": """
        compare
        comparing
        report validation sources judging
        timing
        evaluator
        features
        judges
        metrics
        statistics models
    """,
    "flows": """
        serve
        ablate clean deployments distill keep packages playground push register reproduce search slurm watch
        tuning
        ablation cleaning playing sharing
        pipeline
        live
        preflight
        services plan
        registry
        workspace
        supply
        runtime
    """,
}


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    """The direction is flows -> stages -> evaluation -> dmd; only flows imports the tools of the pipeline."""
    forbidden = set(PACKAGES[PACKAGES.index(package) + 1 :]) | (TOOLS if package != "flows" else set())
    wrong = {f: {n.split(".")[0] for n in imported_names(f)} & forbidden for f in modules(package)}
    assert {f: names for f, names in wrong.items() if names} == {}


def room(file: str) -> str:
    """The top-level folder or module of its package that a file belongs to."""
    return file.split("/")[1].removesuffix(".py")


def upward_imports(package: str) -> list[str]:
    """Imports within a package that go up or sideways between its folders."""
    floors = {name: i for i, line in enumerate(LAYERS[package].split("\n")) for name in line.split()}
    wrong = []
    for file in modules(package):
        for other in imports(file):
            inside = other.startswith(f"{package}/") and room(other) != room(file) and room(other) != "__init__"
            if inside and room(file) != "__init__" and floors[room(other)] <= floors[room(file)]:
                wrong.append(f"{file} imports {other}")
    return sorted(wrong)


@pytest.mark.parametrize("package", LAYERS)
def test_the_layers_name_every_folder_and_module(package: str) -> None:
    assert {room(f) for f in modules(package)} - {"__init__"} == set(LAYERS[package].split())


@pytest.mark.parametrize("package", LAYERS)
def test_folders_import_only_from_lower_layers(package: str) -> None:
    assert upward_imports(package) == []


def test_evaluation_shares_no_code_with_the_losses_of_training() -> None:
    """A judge must not be computed by the code that a generator was trained to please."""
    losses = {f for f in modules("dmd") if f.startswith("dmd/distillation/") and f.endswith("losses.py")}
    assert losses == {"dmd/distillation/losses.py", "dmd/distillation/gan/losses.py"}
    wrong = {f: closure(f) & losses for f in modules("evaluation")}
    assert {f: files for f, files in wrong.items() if files} == {}


def test_training_and_evaluation_share_no_code_for_distances() -> None:
    """The Frechet and kernel distances of training are written apart from those of evaluation."""
    training = {f for f in modules("dmd") if f.startswith("dmd/distillation/moments/")}
    methods = {f"dmd/distillation/methods/{name}.py" for name in ("feature_matching", "fd_loss", "mmd_loss")}
    assert len(training) == 4
    for file in training | methods:
        assert not {f for f in closure(file) if f.startswith("evaluation/")}, file
    for file in modules("evaluation"):
        assert not closure(file) & (training | methods), file


def test_no_stage_imports_another_stage() -> None:
    """Stages share only `stages.command`."""
    wrong = {f: imports(f) & set(modules("stages")) for f in modules("stages")}
    assert {f for f, files in wrong.items() if files - {"stages/command.py", "stages/__init__.py"}} == set()


def test_no_test_imports_another_test() -> None:
    names = {
        f.relative_to(ROOT).as_posix(): imported_names(f.relative_to(ROOT).as_posix())
        for f in (ROOT / "tests").rglob("*.py")
    }
    wrong = {
        f: {n for n in dotted if "conftest" in n or any(part.startswith("test_") for part in n.split(".")[:-1])}
        for f, dotted in names.items()
    }
    assert {f for f, tests in wrong.items() if tests} == set()
