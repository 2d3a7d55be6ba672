"""YAML of a stranger is read within bounds, and every mistake in it is one line."""

import os
from pathlib import Path

import pytest

from dmd.config import load_params
from dmd.errors import ConfigError
from dmd.yaml_files import MAX_FILE, load_yaml, parse_yaml
from tests.helpers.projects import ROOT

TEN = range(10)
ALIASES = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join(f'*a{i - 1}' for _ in TEN)}]\n" for i in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i}\n  <<: [{', '.join(f'*a{i - 1}' for _ in TEN)}]\n" for i in range(1, 12)
)
WRONG_TAGS = ('!!int ""', '!!float ""', "!!bool maybe", "!!timestamp x", "!!binary 1", "!!omap 1", "!!set 1", "!x y")
MANY = "a: [" + "1," * 60_000 + "1]"  # a million of them take twenty seconds
LONG_TEXT = f"a: &a {'x' * 500_000}\nb: [*a, *a, *a, *a, *a]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ALIASES, "aliases included"),
        (MERGES, "aliases included"),
        (LONG_TEXT, "aliases included"),
        (MANY, "52,428 values, aliases included"),
        ("a: " + "[" * 100_000, "a depth of more than 50"),
        ("".join(" " * i + "a:\n" for i in range(300)), "a depth of more than 50"),
        ("a: " + "9" * 5000, "a number of more than 300 digits"),
        ("a: -" + "9" * 5000, "a number of more than 300 digits"),
        ("a: 0x" + "f" * 5000, "a number of more than 300 digits"),
        ("a: 1" + "0" * 5000 + ".5", "a number of more than 300 digits"),
        ("a: !!int '" + "9" * 5000 + "'", "not valid YAML"),
        ("a: &a [*a]", "the value a contains itself"),
        ("a: &a\n  b: {c: *a}", "the value a contains itself"),
        ("a: *b", "undefined alias"),
        ("a: !!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("a: \x1b[2J", "not valid YAML"),
        ("a: 1\na: 2", "duplicate key"),
        ("a: 1\n---\nb: 2", "expected a single document"),
        ("a: [", "not valid YAML"),
        *((f"a: {value}", "not valid YAML") for value in WRONG_TAGS),
    ],
)
def test_hostile_yaml_is_one_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as e:
        parse_yaml(text, "preset.yaml")
    assert str(e.value).startswith("preset.yaml: ") and words in str(e.value)
    assert len(str(e.value)) < 1000 and len(str(e.value).splitlines()) == 1


def test_aliases_and_merges_of_a_normal_size_are_read() -> None:
    text = "base: &base {lr: 1e-3, steps: 0x10}\nfast: {<<: *base, steps: 2}\nboth: [*base, *base]\n"
    base = {"lr": 1e-3, "steps": 16}
    assert parse_yaml(text, "x") == {"base": base, "fast": {"lr": 1e-3, "steps": 2}, "both": [base, base]}
    assert load_yaml(ROOT / "params.yaml")["data"]["source"] == "digits"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: " + b"x" * MAX_FILE, "larger than 1,048,576 bytes"),
        (b"a: caf\xe9", "not UTF-8 text"),
        (None, "not a file"),
    ],
)
def test_a_file_that_is_too_large_no_text_or_a_pipe_is_one_line(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "params.yaml"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as e:
        load_params(file)
    assert len(str(e.value).splitlines()) == 1
