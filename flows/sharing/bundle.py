"""Builds the folder that is uploaded to the hub: generator, picture, and a card with figures, licence and lineage."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.metrics.measures import MEASURES
from flows.registry.address import download_generator, find_version
from flows.registry.store import open_store

if TYPE_CHECKING:
    from huggingface_hub import EvalResult
    from mlflow.entities.model_registry import ModelVersion

PICTURE = "samples.png"
LICENCES = (  # identifiers of the hub that diffusion models and data sets use; another text becomes license_name
    *("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0"),
    *("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "unknown"),
)


def build_bundle(root: Path, model: str, out: Path) -> Path:
    """Write the folder of a registered version into `out` and return it. model: models:/NAME/VERSION or @ALIAS.

    Raises UserError if there is no such version, or if it has no card.
    """
    folder = out / "bundle"
    with open_store(root) as client, tempfile.TemporaryDirectory() as scratch:
        version = find_version(client, model)
        run = client.get_run(str(version.run_id))
        shutil.copytree(download_generator(version, Path(scratch)), folder)
        card = client.download_artifacts(run.info.run_id, "model_card.md", scratch)
        picture = client.download_artifacts(run.info.run_id, f"pictures/{PICTURE}", scratch)
        shutil.copy(picture, folder / PICTURE)
        usage = (folder / "README.md").read_text() if (folder / "README.md").exists() else ""
        text = Path(card).read_text().replace("/VERSION", f"/{version.version}")
    about = json.loads((folder / "generator.json").read_text())
    header = write_header(version, run.data.params, has_text=bool(about["captions"]))
    (folder / "README.md").write_text(join_card(header, text, usage))
    return folder


def write_header(version: "ModelVersion", params: dict[str, str], has_text: bool) -> str:
    """The card's metadata in YAML, by which the hub lists a model. params: those of the MLflow run, by dotted keys."""
    from huggingface_hub import ModelCardData

    more: dict[str, Any] = {}
    licence = params.get("register.licence", "unknown")
    if licence.lower() not in LICENCES:
        more = {"license_name": licence}
    if params.get("teacher.source") == "hub":
        more["base_model"] = params["teacher.hub_id"]
    data = ModelCardData(
        license=licence.lower() if licence.lower() in LICENCES else "other",
        library_name="diffusers",
        pipeline_tag="text-to-image" if has_text else "unconditional-image-generation",
        tags=["one-step", "diffusion-distillation", params.get("method.name", "dmd")],
        model_name=version.name,
        eval_results=list_results(version, params),
        **more,
    )
    return f"---\n{data.to_yaml()}\n---\n"


def list_results(version: "ModelVersion", params: dict[str, str]) -> "list[EvalResult]":
    """The headline figures among the tags of a version, in the form that the hub reads."""
    from huggingface_hub import EvalResult

    source = params.get("data.source", "unknown")
    results = []
    for key, value in sorted(version.tags.items()):
        name, _, extractor = key.partition(".")
        measure = MEASURES.get(name)
        if measure is None and name != "ratio":
            continue
        label = measure.label if measure else "FD of the student over the teacher's best"
        metric = f"{label}, {extractor} features" if extractor else label
        results.append(
            EvalResult(
                task_type="image-generation",
                dataset_type=source,
                dataset_name=source,
                metric_type=key,
                metric_name=metric,
                metric_value=float(value),
            )
        )
    return results


def join_card(header: str, card: str, usage: str) -> str:
    """The README: metadata, the card of the version, its picture, and the code of the generator's own card.

    header: metadata in YAML. card: text that begins with its title. usage: the card in the generator's folder, or "".
    """
    title, _, rest = card.partition("\n## ")
    body = usage.split("---\n", 2)[-1] if usage.startswith("---\n") else usage
    code = body.partition("\n\n")[2].strip()  # without its title
    picture = f"## Samples\n\n![Held-out images, the teacher's and this generator's]({PICTURE})"
    parts = [title.strip(), picture, f"## Use\n\n{code}" if code else "", f"## {rest.strip()}"]
    return header + "\n".join(f"{part}\n" for part in parts if part)


def describe_bundle(folder: Path) -> str:
    """A line for each file with its size in bytes, and a line with their sum."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{file.stat().st_size:>13,} {file.relative_to(folder)}" for file in files]
    return "\n".join([*lines, f"{sum(file.stat().st_size for file in files):>13,} bytes in {len(files)} files"])
