"""A software bill of materials in CycloneDX's JSON format, version 1.6 (https://cyclonedx.org/docs/1.6/json/).

It holds no time and no random number, so that equal locks give equal files.
"""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.supply.packages import NOT_HERE, UNKNOWN, Package


def describe_packages(root: Path, packages: Sequence[Package]) -> str:
    """Return the bill of materials of the project with these packages."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    about = {"type": "application", "name": project["name"], "version": project["version"]}
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**about, "licenses": [{"license": {"name": project["license"]}}]}},
        "components": [_component(package) for package in packages],
    }
    return json.dumps(bill, indent=2) + "\n"


def _component(package: Package) -> dict[str, Any]:
    """A package as a component. The hashes are those of its files for all platforms, of which one is installed."""
    address = f"pkg:pypi/{package.name.lower().replace('_', '-')}@{package.version}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": address,
        "name": package.name,
        "version": package.version,
        "purl": address,
    }
    if package.licence not in (UNKNOWN, NOT_HERE):
        component["licenses"] = [{"license": {"name": package.licence}}]
    if package.hashes:
        digests = [{"alg": "SHA-256", "content": digest} for digest in package.hashes]
        component["externalReferences"] = [{"type": "distribution", "url": address, "hashes": digests}]
    return component
