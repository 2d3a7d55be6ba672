"""Uploads a folder to the Hugging Face hub; each kind of failure is an error in one line."""

import re
from pathlib import Path

from dmd.errors import UserError
from flows.runtime.errors import one_line
from flows.runtime.reach import find_silence

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
LOG_IN = "log in (hf auth login), or set HF_TOKEN to a token that may write"


def check_name(repository: str) -> None:
    """Raise UserError unless the name has the form owner/name."""
    if not REPOSITORY.fullmatch(repository):
        raise UserError(f"{repository!r} is not a repository of the hub; write owner/name")


def address(repository: str) -> str:
    """The page of a repository of models."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def check_ready() -> None:
    """Raise UserError without a token or a network, before anything is downloaded."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so that nothing can be uploaded; unset it, or use --dry-run")
    if not get_token():
        raise UserError(f"no token for {constants.ENDPOINT}: {LOG_IN}; --dry-run needs none")
    if reason := find_silence(constants.ENDPOINT):
        raise UserError(f"{constants.ENDPOINT} can't be reached ({reason}); check the network, or use --dry-run")


def upload(folder: Path, repository: str, message: str, private: bool = False, update: bool = False) -> str:
    """Create a repository and commit the folder to it; return the address of the commit.

    update: the repository must exist, and files of the same names are replaced; without it, a new one is created.
    Raises UserError with the remedy if the hub refuses or does not answer.
    """
    from huggingface_hub import HfApi

    api, created = HfApi(), False
    try:
        if not update:
            api.create_repo(repository, private=private or None)  # None: the default of the account
            created = True
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as e:  # also errors of the HTTP library below the hub's client, which has changed between versions
        again = "; the repository was created, so add --update" if created else ""
        raise UserError(f"{repository}: {explain(e)}{again}") from e
    return str(commit.commit_url)


def explain(error: Exception) -> str:
    """Return one line that says why the hub refused, and what to do."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "is gated: ask its owner for access, or name a repository of your own"
    if isinstance(error, RepositoryNotFoundError):
        return "does not exist, or is private and not visible to this token; without --update it is created"
    match getattr(getattr(error, "response", None), "status_code", None):
        case 409:
            return "exists already; add a commit to it with --update, or choose another name"
        case 401:
            return f"the hub does not accept the token: {LOG_IN}"
        case 403:
            return (
                f"this token may not write there: {LOG_IN}, and name a repository of your own or of your organisation"
            )
    return f"could not be uploaded ({one_line(error)[:200]}); run the command again"
