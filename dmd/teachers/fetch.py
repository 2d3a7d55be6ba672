"""Fetches a teacher from a folder or the hub."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from dmd.config import TeacherConfig
from dmd.data.splits import Split
from dmd.diffusion.pipelines import save_pipeline
from dmd.errors import TeacherError
from dmd.families.pipelines import find_family, load_pipeline
from dmd.storage.faults import refuse
from dmd.teachers.check import check_fits, describe
from dmd.teachers.complete import complete
from dmd.teachers.probe import probe
from dmd.teachers.teacher import Teacher, new_teacher


def fetch_teacher(cfg: TeacherConfig, split: Split, out: Path, device: torch.device) -> tuple[dict[str, str], str]:
    """Copy a teacher into the diffusers folder `out`. Returns its origin and a line that describes it.

    Raises TeacherError if the teacher cannot be loaded, does not fit the data, or fails when it is run.
    """
    folder, origin = find_source(cfg)
    teacher = open_teacher(folder, split.shape, split.class_captions[:1], device)  # one caption is enough to run it
    check_fits(teacher, split.shape, len(split.class_names))
    probe(teacher, folder, split.images, device)
    pipe = teacher.pipeline
    family = find_family(pipe, folder)
    with refuse(f"{folder} could not be written as a pipeline of diffusers", "correct its configs"):
        save_pipeline(family.network(pipe), pipe.scheduler, out, like=pipe)
    return origin, describe(teacher)


def open_teacher(folder: Path, shape: tuple[int, int, int], captions: Sequence[str], device: torch.device) -> Teacher:
    """Load a teacher for images of shape [C, H, W] from a folder, with what its configs leave open set by the data.

    Raises TeacherError if it cannot be loaded.
    """
    pipe = load_pipeline(folder)
    complete(pipe, find_family(pipe, folder), shape[-1])
    return new_teacher(pipe, folder, device, captions=captions)


def find_source(cfg: TeacherConfig) -> tuple[Path, dict[str, str]]:
    """Return the teacher's folder, after a download if it is on the hub, and its origin."""
    if cfg.source == "hub":
        folder = Path(download(cfg.hub_id, cfg.revision))
        return folder, {"source": "hub", "hub_id": cfg.hub_id, "commit": folder.name}
    return Path(cfg.folder), {"source": "folder"}


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
