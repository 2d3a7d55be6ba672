"""A message is a line that a terminal can show, whatever names it holds."""

import pytest

from dmd.errors import LONGEST_LINE, MOST_LINES, UserError, join_mistakes, quote


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\x85", "\r", "\u2028", "\u2029", "\u202e", "\u2066"])
def test_characters_that_a_terminal_obeys_are_escapes(character: str) -> None:
    text = str(UserError(f"a{character}b"))
    assert text == f"a\\x{ord(character):02x}b" and len(text.splitlines()) == 1


def test_a_long_line_loses_its_middle() -> None:
    text = str(UserError(f"begin {'x' * 10**6} end\n{'y' * LONGEST_LINE}"))
    first, second = text.split("\n")
    assert first.startswith("begin xx") and first.endswith("xx end") and len(first) <= LONGEST_LINE + 5
    assert second == "y" * LONGEST_LINE


def test_of_many_mistakes_the_first_are_shown_and_the_others_counted() -> None:
    described: list[int] = []

    def describe(mistake: int) -> str:
        described.append(mistake)
        return f"mistake {mistake}"

    lines = str(UserError(join_mistakes(range(100_000), describe))).split("\n")
    assert len(lines) == MOST_LINES + 1 and lines[-1] == "and 99,950 more mistakes"
    assert described == list(range(MOST_LINES)), "describing a mistake takes a millisecond"
    assert join_mistakes(["a", "b"], lambda _: "the same line") == "the same line"
    assert str(UserError("x\n" * 200)).split("\n")[-1] == "and 151 more mistakes"


def test_a_name_is_part_of_a_line() -> None:
    assert quote("a\nb\u2028c\x1bd") == "a\\x0ab\\x2028c\\x1bd"
    assert len(quote("x" * 10**6)) < 210 and quote(3) == "3"
