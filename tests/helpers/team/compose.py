"""The services of deploy/compose.yaml as processes of this machine, for tests without docker."""

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.helpers.projects import ROOT

VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")


@dataclass(frozen=True)
class Command:
    """The command of a service, with the environment that compose.yaml gives it."""

    argv: list[str]
    env: dict[str, str]


def read_settings(values: dict[str, str]) -> dict[str, str]:
    """The settings of a `.env` made from deploy/.env.example. Raises KeyError for a setting that it does not name."""
    text = (ROOT / "deploy/.env.example").read_text()
    names = set(re.findall(r"^#?(\w+)=", text, re.MULTILINE))
    if unknown := values.keys() - names:
        raise KeyError(f"deploy/.env.example does not name {sorted(unknown)}")
    return dict(re.findall(r"^(\w+)=(.+)$", text, re.MULTILINE)) | values


def read_compose(settings: dict[str, str]) -> dict[str, Any]:
    """Read deploy/compose.yaml and replace its variables as docker compose does.

    Raises ValueError if a required setting is missing.
    """

    def fill(match: re.Match[str]) -> str:
        name, kind, text = match.groups()
        if value := settings.get(name):
            return value
        if kind == "-":
            return text
        raise ValueError(f"{name}: {text or 'not set'}")

    return YAML(typ="safe").load(VARIABLE.sub(fill, (ROOT / "deploy/compose.yaml").read_text()))


def server_command(
    compose: dict[str, Any], service: str, port: int, addresses: dict[str, str], scratch: Path
) -> Command:
    """The command of a server of compose.yaml, on a port of 127.0.0.1.

    addresses: what takes the place of the hosts of other services. scratch: a folder for the files that a volume
    mounts; the server finds nothing else of this project.
    """
    spec = compose["services"][service]
    places = {}
    for volume in spec["volumes"]:
        source, target, _ = volume.split(":")
        folder = scratch / service / Path(target).parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "deploy" / source, folder / Path(target).name)
        places[str(Path(target).parent)] = str(folder)
    words = [places.get(word, word) for word in shlex.split(spec["command"])]
    words[words.index("--host") + 1], words[words.index("--port") + 1] = "127.0.0.1", str(port)
    assert words[0] == "python"
    env = {name: _replace(str(value), addresses) for name, value in spec["environment"].items()}
    return Command([sys.executable, *words[1:]], env)


def bucket_names(compose: dict[str, Any]) -> list[str]:
    """The buckets that the service `buckets` creates."""
    return re.findall(r"\bstore/(\w+)", compose["services"]["buckets"]["entrypoint"][-1])


def _replace(text: str, addresses: dict[str, str]) -> str:
    for old, new in addresses.items():
        text = text.replace(old, new)
    return text
