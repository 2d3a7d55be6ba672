"""Each bug can still be planted; `python tests/planted_bugs.py` checks that the tests find it."""

import pytest

from tests.planted_bugs import BUGS, ROOT, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_still_be_planted(bug: Bug) -> None:
    assert bug.right != bug.wrong and (ROOT / bug.file).read_text().count(bug.right) == 1
