"""Fetches a teacher from a folder or the hub."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from dmd.config import TeacherConfig
from dmd.data.splits import Split
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.families.pipelines import find_family, load_pipeline
from dmd.teachers.check import check_fits, describe
from dmd.teachers.teacher import load_teacher


def fetch_teacher(cfg: TeacherConfig, split: Split, out: Path, device: torch.device) -> tuple[dict[str, str], str]:
    """Fetch a teacher into `out` and check that it fits the data. Returns its origin and a line that describes it.

    Raises TeacherError if the teacher cannot be loaded or does not fit.
    """
    origin = fetch(cfg, out)
    teacher = load_teacher(out, device, captions=split.class_captions[:1])  # one caption is enough to load it
    check_fits(teacher, split.shape, len(split.class_names))
    return origin, describe(teacher)


def fetch(cfg: TeacherConfig, out: Path) -> dict[str, str]:
    """Copy a teacher from a folder or the hub into the diffusers folder `out`. Returns its origin."""
    if cfg.source == "hub":
        location = Path(download(cfg.hub_id, cfg.revision))
        origin = {"source": "hub", "hub_id": cfg.hub_id, "commit": location.name}
    else:
        location, origin = Path(cfg.folder), {"source": "folder"}
    pipe = load_pipeline(location)
    save_pipeline(find_family(pipe, location).network(pipe), pipe.scheduler, out, like=pipe)
    return origin


def download(hub_id: str, revision: str) -> str:
    """Download a diffusers pipeline, unless the local cache holds it. Returns its folder, which has the commit's name.

    Raises TeacherError if the download fails.
    """
    try:
        return str(DiffusionPipeline.download(hub_id, revision=revision))
    except (OSError, ValueError) as e:
        raise TeacherError(f"hub_id {hub_id!r} at {revision!r} {_reason(hub_id, e)}") from e


def _reason(hub_id: str, error: Exception) -> str:
    """Say why the download failed; diffusers hides the hub's own answer behind an error of its cache."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    if isinstance(answer, GatedRepoError):
        return f"is gated: accept its terms at https://huggingface.co/{hub_id}, then log in (hf auth login)"
    if isinstance(answer, RevisionNotFoundError):
        return "could not be fetched: there is no such revision; see the repository's branches, tags and commits"
    if isinstance(answer, RepositoryNotFoundError):
        return "could not be fetched: it does not exist, or is private and needs a login (hf auth login)"
    return (
        f"could not be fetched and is not in the local cache ({' '.join(str(error).split())[:200]}); "
        "check the name and the network, or use source: folder"
    )
