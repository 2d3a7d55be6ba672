"""Limits on sizes keep the project readable, and docstrings begin as sentences."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.imports import PACKAGES, modules, tree
from tests.helpers.projects import ROOT

CODE = [f for package in (*PACKAGES, "tests") for f in modules(package)]
# Modules that are tables and may be longer: one class per group of params.yaml; one entry per planted bug.
TABLES = {"dmd/config.py", "tests/planted/algorithm.py"}
# Functions of more than 50 lines -> why they are not split.
LONG_FUNCTIONS: dict[str, str] = {}
FRAGMENTS = re.compile(r"(Of|What|Where|That|Those|The same|As)\b")


def lines(file: str) -> int:
    return len((ROOT / file).read_text().splitlines())


def functions(file: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_no_folder_holds_more_than_fifteen_modules() -> None:
    counts = Counter(Path(f).parent.as_posix() for f in CODE if Path(f).name != "__init__.py")
    assert {folder: n for folder, n in counts.items() if n > 15} == {}
    assert not [folder for folder in counts if Path(folder).name in ("utils", "common")]


def test_no_module_has_more_than_300_lines() -> None:
    assert {f: lines(f) for f in CODE if f not in TABLES and lines(f) > 300} == {}


def test_no_function_has_more_than_50_lines_without_a_reason() -> None:
    long = {f"{file}: {n.name}" for file in CODE for n in functions(file) if (n.end_lineno or 0) - n.lineno >= 50}
    assert long == set(LONG_FUNCTIONS)


def test_no_stage_script_has_more_than_50_lines() -> None:
    scripts = [f for f in modules("stages") if f != "stages/command.py"]
    assert {f: lines(f) for f in scripts if lines(f) > 50} == {}


def test_dvc_yaml_is_short() -> None:
    assert lines("dvc.yaml") < 170


def test_the_readme_is_short() -> None:
    assert lines("README.md") < 170 and len((ROOT / "README.md").read_text().split()) < 1600


@pytest.mark.parametrize("package", [*PACKAGES, "tests"])
def test_no_docstring_begins_as_a_fragment(package: str) -> None:
    fragments = []
    for file in modules(package):
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                text = ast.get_docstring(node) or ""
                if FRAGMENTS.match(text):
                    fragments.append(f"{file}: {text.splitlines()[0]}")
    assert fragments == []
