"""The table at the head of docs/methods.md leads from each method to its code and its tests."""

import re

from dmd.config import METHOD_NAMES
from dmd.distillation.methods import METHODS
from tests.helpers.docs import ROOT

ROW = re.compile(r"^\| `(\w+)` \| `([\w/]+\.py)` \| (.+) \|$", re.MULTILINE)


def test_every_method_has_a_row_with_the_file_of_its_class_and_tests_that_name_it() -> None:
    rows = ROW.findall((ROOT / "docs/methods.md").read_text())
    assert [name for name, _, _ in rows] == METHOD_NAMES == list(METHODS)
    for name, file, tests in rows:
        assert METHODS[name].__module__.replace(".", "/") + ".py" == file
        for path in re.findall(r"`([^`]+)`", tests):
            assert f'"{name}"' in (ROOT / path).read_text(), (name, path)
