"""Imports of the project's modules, read from their source."""

import ast
from functools import cache

from tests.helpers.projects import ROOT

PACKAGES = ("dmd", "evaluation", "stages", "flows")
Edge = tuple[str, str]  # the file that imports, the file that it imports


def modules(package: str) -> list[str]:
    """The files of a package, relative to the root."""
    return sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / package).rglob("*.py"))


@cache
def tree(file: str) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse((ROOT / file).read_text())


def imported_names(file: str) -> set[str]:
    """Dotted names that a file imports, inside functions too; `from a import b` gives a and a.b."""
    names: set[str] = set()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{file}: relative import"
            names |= {node.module, *(f"{node.module}.{a.name}" for a in node.names)}
    return names


def module_files(name: str) -> set[str]:
    """The file of a module and the `__init__.py` files that Python runs to import it; empty for a foreign name."""
    if name.split(".")[0] not in PACKAGES:
        return set()
    parts = name.split(".")
    files = {"/".join(parts[:i]) + "/__init__.py" for i in range(1, len(parts) + 1)} | {"/".join(parts) + ".py"}
    return {f for f in files if (ROOT / f).is_file()}


@cache
def imports(file: str) -> frozenset[str]:
    """Files of the project that a file imports."""
    return frozenset(f for name in imported_names(file) for f in module_files(name))


def closure(file: str, without: frozenset[Edge] = frozenset()) -> set[str]:
    """A file and all files of the project that it imports, directly or indirectly. without: imports not followed."""
    done: set[str] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= {f for f in imports(current) if (current, f) not in without} - done
    return done


def holds_code(file: str) -> bool:
    """Whether a file holds anything but a docstring."""
    return any(not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)) for n in tree(file).body)
