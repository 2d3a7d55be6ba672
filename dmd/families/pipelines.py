"""Loads a diffusers pipeline folder and recognises its family by the parts that the pipeline has."""

import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from safetensors import SafetensorError

from dmd.errors import TeacherError
from dmd.families import FAMILIES, Family

disable_progress_bar()  # diffusers' bar for loading would appear between the lines of the stage

UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(folder: Path) -> DiffusionPipeline:
    """Load a pipeline folder by diffusers' own loader, with every part in float32 whatever its stored type.

    Raises TeacherError if that fails, or if the pipeline belongs to no family.
    """
    if not (folder / "model_index.json").is_file():
        raise TeacherError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    try:
        index = json.loads((folder / "model_index.json").read_text())
        without = {name: None for name in UNUSED_PARTS if name in index}
        # Without dtype, text encoders would keep their stored type.
        pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, dtype=torch.float32, **without)
    except (OSError, ValueError, SafetensorError, RuntimeError, AttributeError, KeyError, TypeError) as e:
        raise TeacherError(f"{folder} could not be loaded: {' '.join(str(e).split())[:300]}") from e
    find_family(pipe, folder)
    return pipe


def find_family(pipe: DiffusionPipeline, folder: Path) -> Family:
    """Return the family of a pipeline. Raises TeacherError if there is none, or the network needs more than noise."""
    family = next((family for family in FAMILIES if family.has_parts(pipe)), None)
    if family is None:
        known = "; ".join(family.parts for family in FAMILIES)
        raise TeacherError(f"{folder} holds a {type(pipe).__name__}; supported are pipelines with {known}")
    if fault := family.find_fault(pipe):
        raise TeacherError(f"{folder} cannot be used: its {type(family.network(pipe)).__name__} {fault}")
    return family
