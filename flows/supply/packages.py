"""Reads the packages of requirements.lock, and their licences from the metadata of the installed ones."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dmd.errors import UserError

LOCK = "requirements.lock"
PACKAGE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
UNKNOWN = "unknown"
NOT_HERE = "not installed here"
LONGEST = 60  # characters of a licence's name; a longer text in the field is that of the licence
CLASSIFIER = "License :: "


@dataclass(frozen=True)
class Package:
    """A package of the lock. Its licence is unknown if it is for another platform or Python, and not installed here."""

    name: str
    version: str
    hashes: tuple[str, ...]  # sha256 of each file of this version
    licence: str


def read_packages(root: Path) -> list[Package]:
    """Return the packages of the lock. Raises UserError if there is no lock, or no package in it."""
    file = root / LOCK
    if not file.is_file():
        raise UserError(f"{file} is missing: git checkout {LOCK}")
    packages: list[tuple[str, str, list[str]]] = []
    for line in file.read_text().splitlines():
        if package := PACKAGE.match(line):
            packages.append((package[1], package[2], []))
        elif (digest := HASH.search(line)) and packages:
            packages[-1][2].append(digest[1])
    if not packages:
        raise UserError(f"{file} lists no package: git checkout {LOCK}")
    return [Package(name, version, tuple(hashes), find_licence(name)) for name, version, hashes in packages]


def find_licence(name: str) -> str:
    """Return the licence that a package declares: its SPDX expression, else its classifiers, its text or its file.

    Returns NOT_HERE for a package that is not installed, and UNKNOWN for one that declares no licence.
    """
    try:
        about: Any = metadata.metadata(name)  # its type lists no `get`, which it has
    except metadata.PackageNotFoundError:
        return NOT_HERE
    if expression := about.get("License-Expression"):
        return expression
    classifiers = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or [] if c.startswith(CLASSIFIER)]
    if licences := [licence for licence in classifiers if licence != "OSI Approved"]:
        return " AND ".join(sorted(licences))
    text = " ".join((about.get("License") or "").split())
    return text if 0 < len(text) <= LONGEST and text != "UNKNOWN" else _read_licence_file(name)


def _read_licence_file(name: str) -> str:
    """Return the first line of a package's licence file, which names the licence; UNKNOWN without such a file."""
    for file in metadata.files(name) or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.IGNORECASE) and (path := Path(str(file.locate()))).is_file():
            lines = (line.strip() for line in path.read_text(errors="replace").splitlines())
            return next((line[:LONGEST] for line in lines if line), UNKNOWN)
    return UNKNOWN


def format_licences(packages: Iterable[Package]) -> str:
    """Return a line for each package: licence, name and version, sorted by licence."""
    rows = sorted((p.licence[:LONGEST], p.name, p.version) for p in packages)
    width = max(len(licence) for licence, *_ in rows)
    return "\n".join(f"{licence:{width}}  {name} {version}" for licence, name, version in rows)
