"""Loads a diffusers pipeline folder and recognises its family by the parts that the pipeline has."""

import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from dmd.errors import TeacherError
from dmd.families import FAMILIES, Family
from dmd.families.parts import load_networks
from dmd.storage.faults import refuse

disable_progress_bar()  # diffusers' bar for loading would appear between the lines of the stage

UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(folder: Path) -> DiffusionPipeline:
    """Load a pipeline folder by diffusers' own loader, with every network in float32 whatever its stored type.

    Raises TeacherError if that fails, if a weight is missing or wrong, or if the pipeline belongs to no family.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise TeacherError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    with refuse(f"{file} could not be read", "replace it by the one of the pipeline"):
        index = json.loads(file.read_bytes())
        without = {name: None for name in UNUSED_PARTS if name in index}
        parts = {name: entry for name, entry in index.items() if name not in without and isinstance(entry, list)}
        _check_folders(folder, [name for name, entry in parts.items() if any(entry)])
        networks = load_networks(folder, parts)
    with refuse(f"{folder} could not be loaded", "correct its configs"):
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **networks, **without)
    find_family(pipe, folder)
    return pipe


def _check_folders(folder: Path, names: Sequence[str]) -> None:
    """Raise TeacherError if a part has no folder; transformers would make an empty tokenizer of a missing one.

    A pipeline of a single network may be stored without any folder.
    """
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing and len(missing) < len(names):
        raise TeacherError(f"{folder} has no folder {missing[0]}, which its model_index.json names; add it")


def find_family(pipe: DiffusionPipeline, folder: Path) -> Family:
    """Return the family of a pipeline. Raises TeacherError if there is none, or the network needs more than noise."""
    family = next((family for family in FAMILIES if family.has_parts(pipe)), None)
    if family is None:
        known = "; ".join(family.parts for family in FAMILIES)
        raise TeacherError(f"{folder} holds a {type(pipe).__name__}; supported are pipelines with {known}")
    if fault := family.find_fault(pipe):
        raise TeacherError(f"{folder} cannot be used: its {type(family.network(pipe)).__name__} {fault}")
    return family
