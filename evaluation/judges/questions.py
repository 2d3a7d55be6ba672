"""Questions on counts and colours that a prompt answers, such as "how many dogs are there?" for "two dogs".

The rules know English numbers, colours and regular plurals. A prompt without any of them has no questions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

NUMBERS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10,
}  # fmt: skip
COUNTS = tuple(str(i) for i in range(2, 11))  # "one" and "a" say too little
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray")
SPELLINGS = {"grey": "gray", "violet": "purple"}
SIZES = (
    "small", "little", "tiny", "big", "large", "huge", "tall", "short", "young", "old", "new", "bright", "dark",
    "light",
)  # fmt: skip
PLURALS = ("people", "men", "women", "children", "sheep", "mice", "geese", "feet", "teeth", "fish")
# Words that end the name of a thing.
ENDS = {
    "a", "an", "the", "and", "or", "but", "of", "on", "in", "at", "by", "with", "without", "to", "from", "for",
    "near", "next", "above", "below", "under", "over", "behind", "between", "beside", "into", "onto", "is", "are",
    "was", "were", "has", "have", "that", "which", "who", "while", "as", "it", "its", "their", "his", "her", "this",
    "these", "those",
}  # fmt: skip
LONGEST = 3  # words of the name of a thing


@dataclass(frozen=True)
class Question:
    """A question on an image, and the answer that the prompt gives: a number in digits, or a colour."""

    text: str
    answer: str

    def is_right(self, answer: str) -> bool:
        """Whether an answer in words gives this number or colour, and no other one."""
        words = [_plain(word) for word in re.findall(r"\w+", answer.lower())]
        return {w for w in words if w in COLOURS or w.isdigit()} == {self.answer}


@lru_cache(maxsize=4096)
def make_questions(prompt: str) -> tuple[Question, ...]:
    """The questions of a prompt, in the order of its words; equal ones once."""
    parts = re.split(r"[^\w\s'-]+", prompt.lower())  # a thing does not reach over a comma
    return tuple(dict.fromkeys(q for part in parts for q in _ask(part.split())))


def _ask(words: list[str]) -> Iterator[Question]:
    for i, word in enumerate(words):
        plain, rest = _plain(word), words[i + 1 :]
        if plain in COUNTS and (thing := _name_many(rest)):
            yield Question(f"how many {thing} are there?", plain)
        if plain in COLOURS and not _is_mixed(words, i) and (thing := _name(rest)):
            verb = "are" if _is_plural(thing.split()[-1]) else "is"
            yield Question(f"what color {verb} the {thing}?", plain)


def _plain(word: str) -> str:
    """Digits of a number in words, and one spelling of a colour; any other word as it is."""
    return str(NUMBERS[word]) if word in NUMBERS else SPELLINGS.get(word, word)


def _is_mixed(words: list[str], i: int) -> bool:
    """Whether a colour is one of two that an "and" joins, as in "a black and white cat"."""
    joined = [words[j - 1 : j + 2] for j in (i - 1, i + 1) if 0 < j < len(words) and words[j] == "and"]
    return any(_plain(three[0]) in COLOURS and _plain(three[-1]) in COLOURS for three in joined)


def _name(words: list[str]) -> str:
    """The thing that words begin with: up to a word that ends a name; empty if there is none."""
    thing = list[str]()
    for word in words[:LONGEST]:
        if word in ENDS or word.endswith("ing") or _plain(word) in COLOURS:
            break
        thing.append(word)
    return " ".join(thing)


def _name_many(words: list[str]) -> str:
    """The things that words begin with, without their colour and size: up to the first plural; empty if none."""
    while words and (_plain(words[0]) in COLOURS or words[0] in SIZES):
        words = words[1:]
    thing = _name(words).split()
    end = next((i for i, word in enumerate(thing) if _is_plural(word)), None)
    return "" if end is None else " ".join(thing[: end + 1])


def _is_plural(word: str) -> bool:
    return word in PLURALS or (word.endswith("s") and not word.endswith(("ss", "us", "is")))
