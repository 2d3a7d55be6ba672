"""Changes to texts, bytes, trees of JSON or YAML, and folders, drawn from a random generator.

A change returns a line that says what it did. The same state of the generator gives the same change.
"""

import json
import random
import shutil
from collections.abc import Callable, MutableMapping, MutableSequence
from pathlib import Path
from typing import Any

Key = str | int

LONG = "x" * 100_000
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 10**6, 10**12, 2**31, 2**63, -(2**63), 10**400),
    *(0.0, -0.0, 0.5, 1e-300, 1e300, float("nan"), float("inf"), float("-inf")),
    *("", " ", "none", "true", "1", "1e-3", "nan", "~", "\x1b[31mred", "a\nb", "\u202e", "\u00fc", "\ud7ff", LONG),
    *("${data.folder}", "{name}", "{name:>900000000}", "{", "}", "{0}", "{name.__class__}", "%s%n", "$(touch hacked)"),
    *("/", ".", "..", "../..", "/dev/zero", "/dev/stdin", "/etc/passwd", "a/b/c", "-rf", "--help", "C:\\", "~root"),
    *([], {}, [1, 2, 3], ["a"], [[]], [None], {"a": 1}, {"": {}}, [0] * 1000, [True], [float("nan")], [-1, 0]),
)
HOSTILE = (
    *(b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\t", b"\x1b[2J", b"\xc3\x28", b"\xed\xa0\x80", b"\n" * 50),
    *(b"&a", b"*a", b"<<: *a\n", b"--- \n", b"%YAML 9.9\n", b"? ", b"- ", b": ", b"|", b"{", b"[", b"}", b"]", b","),
    *(b'"', b"'", b"#", b"@", b"`", b"[" * 3000, b"{a: " * 3000, b"a: &a [1]\nb: &b [*a,*a,*a]\n"),
    *(b"9" * 5000, b"0x" + b"f" * 5000, b"1e999999", b"2001-13-45", b"12:99:99", b"NaN", b"Infinity", b"\\ud800"),
    *(b'!!int ""', b"!!float x", b"!!bool maybe", b"!!timestamp x", b"!!binary x", b"!!omap 1", b"!!set 1", b"!x y"),
    b"!!python/object/apply:os.system ['touch hacked']\n",
)


def change_tree(rng: random.Random, tree: Any) -> str:
    """Change one place of a tree of dicts and lists, at any depth, in place."""
    places = list(_places(tree))
    parent, key, path = places[rng.randrange(len(places))]
    kind = rng.randrange(6)
    if kind == 0:
        del parent[key]
        return f"{path} removed"
    if kind == 1 and isinstance(parent, MutableMapping):
        name = rng.choice((f"{key}x", "", "__class__", str(key).upper(), "a.b", "\x1b[31m", "none", LONG[:3000]))
        parent[name] = parent.pop(key)
        return f"{path} renamed to {name[:30]!r}"
    if kind == 2:
        other, name, place = places[rng.randrange(len(places))]
        parent[key] = json.loads(json.dumps(other[name], default=str))
        return f"{path} takes the value of {place}"
    if kind == 3 and isinstance(value := parent[key], int | float) and not isinstance(value, bool):
        parent[key] = rng.choice((-value, value * 1000, value + 1, value - 1, value / 7, str(value), value * 10**9))
        return f"{path} = {parent[key]!r}"
    if kind == 4:
        parent[key] = rng.choice(
            ([parent[key]], {"value": parent[key]}, _nested(parent[key], rng.choice((3, 60, 500))))
        )
        return f"{path} is put inside other values"
    parent[key] = rng.choice(VALUES)
    return f"{path} = {_show(parent[key])}"


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _places(tree: Any, path: str = "") -> Any:
    """Yield each value below a dict or list: what holds it, its key, and its path."""
    entries = tree.items() if isinstance(tree, MutableMapping) else enumerate(tree)
    for key, value in entries:
        where = f"{path}.{key}" if path else str(key)
        yield tree, key, where
        if isinstance(value, MutableMapping | MutableSequence):
            yield from _places(value, where)


def _show(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= 60 else f"{text[:60]} ..."


def change_bytes(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    """Return changed content and what was changed."""
    place, length = rng.randrange(len(content) + 1), rng.choice((1, 2, 8, 64, 1000))
    changed = bytearray(content)
    match rng.randrange(8):
        case 0:
            return content[:place], f"cut off after {place} bytes"
        case 1:
            place = min(place, len(content) - 1) if content else 0
            if content:
                changed[place] ^= 1 << rng.randrange(8)
            return bytes(changed), f"a bit of byte {place} flipped"
        case 2:
            del changed[place : place + length]
            return bytes(changed), f"{length} bytes removed at {place}"
        case 3:
            changed[place:place] = rng.randbytes(length)
            return bytes(changed), f"{length} random bytes put in at {place}"
        case 4:
            changed[place : place + length] = rng.randbytes(length)
            return bytes(changed), f"{length} random bytes from {place}"
        case 5:
            changed[place:place] = content[place : place + length]
            return bytes(changed), f"{length} bytes from {place} twice"
        case 6:
            changed[place : place + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" * 8, b"\x80" * 8))
            return bytes(changed), f"eight equal bytes from {place}"
        case _:
            piece = rng.choice(HOSTILE)
            changed[place:place] = piece
            return bytes(changed), f"{piece[:40]!r} put in at {place}"


def change_file(rng: random.Random, file: Path) -> str:
    """Change the bytes of a file. An edit that changes nothing is possible, and the result must then be valid."""
    content, what = change_bytes(rng, file.read_bytes())
    file.write_bytes(content)
    return f"{file.name}: {what}"


def change_json(rng: random.Random, file: Path) -> str:
    """Change one to three values of a JSON file; sometimes the whole file becomes one value."""
    if rng.randrange(12) == 0:
        tree, what = rng.choice(VALUES), "the whole file is one value"
    else:
        tree = json.loads(file.read_bytes())
        what = "; ".join(_change_if_any(rng, tree) for _ in range(rng.choice((1, 1, 1, 2, 3))))
    file.write_text(json_text(tree), encoding="utf-8", errors="surrogatepass")
    return f"{file.name}: {what}"


def json_text(tree: Any) -> str:
    """JSON with NaN and infinities, and with numbers of any length."""
    try:
        return json.dumps(tree)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "1" + "0" * 5000


def _change_if_any(rng: random.Random, tree: Any) -> str:
    return change_tree(rng, tree) if isinstance(tree, dict | list) and tree else "nothing left to change"


def change_text(rng: random.Random, file: Path) -> str:
    """Change lines of a text: removed, twice, exchanged, indented; or its bytes."""
    lines = file.read_bytes().splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[i]
            what = f"line {i + 1} removed"
        case 1:
            lines.insert(j, lines[i])
            what = f"line {i + 1} again as line {j + 1}"
        case 2:
            lines[i], lines[j] = lines[j], lines[i]
            what = f"lines {i + 1} and {j + 1} exchanged"
        case 3:
            lines[i] = rng.choice((b" ", b"\t", b"  ")) + lines[i]
            what = f"line {i + 1} indented"
        case _:
            return change_file(rng, file)
    file.write_bytes(b"".join(lines))
    return f"{file.name}: {what}"


Edit = Callable[[random.Random, Path], str]


def change_folder(rng: random.Random, folder: Path, edit: Edit) -> str:
    """Change a file of a folder by `edit`, or the files themselves: missing, empty, twice, a folder, a link."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[rng.randrange(len(files))]
    name = str(file.relative_to(folder))
    match rng.randrange(14):
        case 0:
            file.unlink()
            return f"{name} is missing"
        case 1:
            file.write_bytes(b"")
            return f"{name} is empty"
        case 2:
            other = files[rng.randrange(len(files))]
            if other != file:
                shutil.copy(other, file)
            return f"{name} is a copy of {other.relative_to(folder)}"
        case 3:
            file.unlink()
            file.mkdir()
            return f"{name} is a folder"
        case 4:
            file.unlink()
            file.symlink_to(rng.choice(("/dev/zero", "/dev/null", "missing", file.name, "/etc/passwd", "..")))
            return f"{name} is a link to {file.readlink()}"
        case 5:
            stem = rng.choice(("a", "\x1b[31m.png", "a,b.png", "-rf", "ü.png", "x" * 200))
            other = file.with_name(stem + file.suffix)
            file.rename(other)
            return f"{name} is renamed {other.name[:40]!r}"
        case _:
            return f"{name}: {edit(rng, file)}"
