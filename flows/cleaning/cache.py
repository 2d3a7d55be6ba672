"""Objects of DVC's cache that nothing refers to.

`dvc gc` looks at one repository and its commits. Here an object is kept if any of these files names it: dvc.lock and
*.dvc of every commit that a branch, tag, experiment, stash or reflog of git reaches, of the commits of registered
versions, and of the folders of all worktrees, records included. The text of the files is searched, so that a file that
DVC cannot parse protects its objects too.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from dmd.errors import UserError
from flows.cleaning.item import Item
from flows.runtime.git import git

HASH = re.compile(rb"\b([0-9a-f]{32})(?:\.dir)?\b")
FILES = ("*dvc.lock", "*.dvc")  # of commits
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")
RUNS = "runs"  # folder of DVC's run cache


def find_orphans(root: Path, cache: Path, commits: Iterable[str], digests: Iterable[str] = ()) -> Iterator[Item]:
    """Yield the objects of the cache that nothing refers to, and the entries of the run cache that need them.

    commits and digests: further commits and objects that are kept. Raises UserError if git cannot list the references.
    """
    used = find_used(root, cache, commits, digests)
    orphans = set[str]()
    for file in sorted((cache / "files" / "md5").glob("??/*")):
        if not OBJECT.fullmatch(file.name):
            continue
        digest = (file.parent.name + file.name).removesuffix(".dir")
        if digest not in used:
            orphans.add(digest)
            yield Item("cache object", digest, file.stat().st_size, partial(_remove_object, file))
    for entry in sorted((cache / RUNS).glob("??/*/*")):
        if entry.is_file() and _find_hashes(entry.read_bytes()) & orphans:
            yield Item("run of the cache", entry.name, entry.stat().st_size, partial(entry.unlink, missing_ok=True))


def find_used(root: Path, cache: Path, commits: Iterable[str], digests: Iterable[str] = ()) -> set[str]:
    """Return the md5 of every object that something refers to, with the files of folders."""
    used = {digest.removesuffix(".dir") for digest in digests}
    for text in (*_files_of_commits(root, commits), *_files_of_worktrees(root)):
        used |= _find_hashes(text)
    for digest in list(used):
        listing = cache / "files" / "md5" / digest[:2] / f"{digest[2:]}.dir"
        if listing.is_file():
            used |= _read_listing(listing)
    return used


def _find_hashes(text: bytes) -> set[str]:
    """Return the md5 hashes in a text."""
    return {digest.decode() for digest in HASH.findall(text)}


def _read_listing(listing: Path) -> set[str]:
    """Return the md5 of the files of a folder; from a damaged listing, everything that looks like an md5."""
    content = listing.read_bytes()
    try:
        return {entry["md5"] for entry in json.loads(content)}
    except (ValueError, KeyError, TypeError):
        return _find_hashes(content)


def _files_of_commits(root: Path, commits: Iterable[str]) -> list[bytes]:
    """Return the contents of DVC's files in all commits."""
    known = [sha for sha in commits if git(root, "cat-file", "-e", f"{sha}^{{commit}}") is not None]
    listed = git(root, "rev-list", "--full-history", "--all", "--reflog", "--objects", "HEAD", *known, "--", *FILES)
    if listed is None:
        raise UserError(f"git cannot list the commits of {root}, so nothing shows which objects are needed")
    blobs = [line.split(" ", 1)[0] for line in listed.splitlines() if line.endswith((".lock", ".dvc"))]
    done = subprocess.run(
        ["git", "cat-file", "--batch"], cwd=root, input="\n".join(blobs).encode(), capture_output=True, check=True
    )
    return [done.stdout]


def _files_of_worktrees(root: Path) -> Iterator[bytes]:
    """Yield the contents of DVC's files in the folders of all worktrees, committed or not."""
    lines = (git(root, "worktree", "list", "--porcelain") or "").splitlines()
    for place in {root, *(Path(line.removeprefix("worktree ")) for line in lines if line.startswith("worktree "))}:
        for pattern in ("dvc.lock", "*.dvc", "*/dvc.lock", "*/*/dvc.lock", ".dvc/tmp/exps/*/dvc.lock"):
            yield from (file.read_bytes() for file in place.glob(pattern) if file.is_file())
        new = git(place, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *FILES) or ""
        yield from (file.read_bytes() for name in new.split("\0") if name and (file := place / name).is_file())


def hash_locks(root: Path) -> set[str]:
    """Return the sha256 of dvc.lock at every branch, tag and experiment, and in the folders of all worktrees."""
    refs = (git(root, "for-each-ref", "--format=%(objectname)") or "").split()
    contents = [
        subprocess.run(["git", "show", f"{ref}:dvc.lock"], cwd=root, capture_output=True, check=False).stdout
        for ref in {*refs, git(root, "rev-parse", "HEAD") or "HEAD"}
    ]
    return {hashlib.sha256(content).hexdigest() for content in (*contents, *_files_of_worktrees(root))}


def _remove_object(file: Path) -> None:
    """Remove an object, and the unpacked form of a folder, which DVC would use as if the folder were still there."""
    file.unlink(missing_ok=True)
    file.with_name(f"{file.name}.unpacked").unlink(missing_ok=True)
