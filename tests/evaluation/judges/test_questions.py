"""Questions that a prompt answers, and which answers are right."""

import pytest

from evaluation.judges.questions import Question, make_questions


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a photo of two clocks", [("how many clocks are there?", "2")]),
        ("a photo of 3 baseball bats", [("how many baseball bats are there?", "3")]),
        ("A red bicycle.", [("what color is the bicycle?", "red")]),
        ("a red ball and a blue cube", [("what color is the ball?", "red"), ("what color is the cube?", "blue")]),
        ("two red balls", [("how many balls are there?", "2"), ("what color are the balls?", "red")]),
        ("four small grey mice on a table", [("how many mice are there?", "4"), ("what color are the mice?", "gray")]),
        ("a red brick wall behind a tree", [("what color is the brick wall?", "red")]),
        ("five people", [("how many people are there?", "5")]),
        ("two cats, two cats", [("how many cats are there?", "2")]),
    ],
)
def test_counts_and_colours_become_questions(prompt: str, expected: list[tuple[str, str]]) -> None:
    assert [(q.text, q.answer) for q in make_questions(prompt)] == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a photo of a dog",
        "a black and white cat",
        "one dog",
        "an orange",
        "two",
        "eleven dogs",
        "two of three",
        "7",
    ],
)
def test_other_prompts_have_no_questions(prompt: str) -> None:
    assert make_questions(prompt) == ()


def test_an_answer_is_right_if_it_names_the_number_or_colour_and_no_other() -> None:
    count, colour = Question("how many dogs are there?", "2"), Question("what color is the dog?", "gray")
    assert count.is_right("2") and count.is_right("Two.") and not count.is_right("3") and not count.is_right("2 or 3")
    assert colour.is_right("grey") and colour.is_right("light gray") and not colour.is_right("gray and white")
    assert not colour.is_right("") and not count.is_right("many")
