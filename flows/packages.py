"""`python -m flows.packages licences | sbom | audit`: the packages of requirements.lock.

licences prints the licence of each; sbom writes a bill of materials in the JSON format of CycloneDX; audit asks
pip-audit for known vulnerabilities, or says in one line that its database cannot be reached.
"""

import sys
from pathlib import Path

from dmd.debug import CommandParser
from flows.runtime.command import run_command

COMMANDS = ("licences", "sbom", "audit")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = CommandParser(prog="python -m flows.packages", description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--out", type=Path, default=Path("sbom.json"), help="file of sbom (default sbom.json)")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(Path.cwd(), args.command, args.out))


def _run(root: Path, command: str, out: Path) -> int:
    from flows.supply.packages import format_licences, read_packages

    if command == "audit":
        from flows.supply.audit import audit

        code, text = audit(root)
        print(text)
        return code
    packages = read_packages(root)
    if command == "licences":
        print(format_licences(packages))
        return 0
    from dmd.storage.files import write_text
    from flows.supply.sbom import describe_packages

    write_text(out, describe_packages(root, packages))
    print(f"sbom: {len(packages)} packages in {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
