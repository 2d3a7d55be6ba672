"""No text of a user, such as a parameter, reaches a shell."""

import ast

import pytest
from ruamel.yaml import YAML

from tests.helpers.imports import PACKAGES, modules, tree
from tests.helpers.projects import ROOT

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


@pytest.mark.parametrize("stage", STAGES)
def test_no_command_of_the_graph_holds_a_parameter(stage: str) -> None:
    assert "$" not in STAGES[stage]["cmd"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_starts_a_shell(package: str) -> None:
    calls = [(file, node) for file in modules(package) for node in ast.walk(tree(file)) if isinstance(node, ast.Call)]
    by_keyword = [file for file, node in calls if any(keyword.arg == "shell" for keyword in node.keywords)]
    by_name = [file for file, node in calls if isinstance(node.func, ast.Attribute) and node.func.attr in SHELLS]
    assert by_keyword == by_name == []
