"""Loads a diffusers pipeline folder and recognises its family by the parts that the pipeline has."""

from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar

from dmd.config import Precision
from dmd.errors import TeacherError
from dmd.families import FAMILIES, Family
from dmd.families.parts import load_networks
from dmd.families.transformers import TEXT_TRANSFORMERS
from dmd.storage.faults import refuse
from dmd.yaml_files import load_object

disable_progress_bar()  # diffusers' bar for loading would appear between the lines of the stage

TEXT_PIPELINES = {family.pipeline_class.__name__ for family in TEXT_TRANSFORMERS}
MAX_TIMESTEPS = 100_000  # noise levels of a schedule; a hundred times those of any model on the hub
UNUSED_PARTS = ("safety_checker", "feature_extractor", "image_encoder")


def load_pipeline(
    folder: Path, with_text: bool = True, precision: Precision = "fp32", only_encoders: bool = False
) -> DiffusionPipeline:
    """Load a pipeline folder by diffusers' own loader, with every network in float32 whatever its stored type.

    precision: bf16 holds the weights of the diffusion network in half of the memory (dmd/networks/half.py).
    only_encoders: leave out the weights of the diffusion network; `precision` is then that of the others. with_text:
    load the text encoders, too; without them, those of a text transformer stay on disk, where they are many GiB. Raises
    TeacherError if that fails, if a weight is missing or wrong, or if the pipeline belongs to no family.
    """
    file = folder / "model_index.json"
    if not file.is_file():
        raise TeacherError(f"{folder} is not a diffusers pipeline folder: it has no model_index.json")
    with refuse(f"{file} could not be read", "replace it by the one of the pipeline"):
        index = load_object(file, TeacherError)
        without = {name: None for name in UNUSED_PARTS if name in index}
        if not with_text and index.get("_class_name") in TEXT_PIPELINES:
            without |= {name: None for name in index if name.startswith("text_encoder")}
        parts = {name: entry for name, entry in index.items() if name not in without and isinstance(entry, list)}
        _check_folders(folder, [name for name, entry in parts.items() if any(entry)])
        _check_schedule(folder)
        networks = load_networks(folder, parts, precision, only_encoders)
    with refuse(f"{folder} could not be loaded", "correct its configs"):
        pipe = DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, **networks, **without
        )
    find_family(pipe, folder)
    return pipe


def _check_schedule(folder: Path) -> None:
    """Raise TeacherError for a schedule whose tables would fill the memory."""
    files = (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json")
    for file in files:
        steps = load_object(file, TeacherError).get("num_train_timesteps", 0) if file.is_file() else 0
        if isinstance(steps, int | float) and steps > MAX_TIMESTEPS:
            raise TeacherError(f"{file}: num_train_timesteps: {steps:.6g} is too large; use at most {MAX_TIMESTEPS:,}")


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
