"""A generator as a model in MLflow's registry, without a pickle: its code, requirements, signature, tags and card."""

import tempfile
from importlib.metadata import version as package_version
from pathlib import Path
from typing import TYPE_CHECKING

from dmd.errors import UserError
from evaluation.metrics.measures import MEASURES
from flows.registry.champion import FIGURES
from flows.registry.figures import judge_tags
from flows.registry.gate import Figures
from flows.registry.model_card import model_card
from flows.registry.result import GENERATOR, RESULT, Result

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

CODE = Path(__file__).with_name("pyfunc_generator.py")
IMPORT = "from dmd.generator.standalone import run_steps\n"
DESCRIPTION = 5000  # characters that MLflow's tables hold on a server; the whole card is an artifact of the run
REQUIREMENTS = ("mlflow", "torch", "diffusers", "transformers", "safetensors", "numpy", "pandas", "pillow")
LINEAGE = ("git.sha", "git.dirty", "dvc.lock.sha256", "dvc.data.md5", "params.sha256", "prefect.flow_run_id")


def create_version(client: "MlflowClient", result: Result, run_id: str) -> str:
    """Log the generator as a model of the run and register it; return the new version.

    Raises UserError if the run holds another result.
    """
    import mlflow
    from mlflow.models import Model

    run = client.get_run(run_id)
    if run.data.tags.get(RESULT) != result.digest:
        raise UserError(f"the MLflow run {run_id} holds another result than the workspace; publish the workspace first")
    # Without this, the model's files go to MLflow's default experiment, in the working directory.
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / CODE.name
        code.write_text(standalone_code())
        model = Model.log(
            artifact_path=None,
            name="generator",
            flavor=mlflow.pyfunc,
            run_id=run_id,  # mlflow.pyfunc.log_model would open the finished run again; its figures become the model's
            python_model=str(code),
            artifacts={"generator": str(result.root / GENERATOR)},
            signature=_signature(),
            input_example=_input_example(),
            pip_requirements=[f"{name}=={package_version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )
    name = result.params.register_.name
    lineage = {key: run.data.tags[key] for key in LINEAGE if key in run.data.tags}
    tags = {**_headline(result), **lineage, FIGURES: Figures.from_metrics(result.metrics).to_json()}
    version = str(mlflow.register_model(model.model_uri, name, tags=tags).version)
    card = model_card(result, lineage, run_id)
    client.update_model_version(name, version, description=card.replace("/VERSION", f"/{version}")[:DESCRIPTION])
    client.log_text(run_id, card, "model_card.md")
    return version


def standalone_code() -> str:
    """Source of the registered model: pyfunc_generator.py with the code of the sampling loop instead of its import."""
    from dmd.generator.standalone import SOURCE  # imports torch, which takes seconds

    before, _, after = CODE.read_text().partition(IMPORT)
    return f"{before}\n{SOURCE}\n{after}"


def _headline(result: Result) -> dict[str, str]:
    """Tags with the headline figures of a version. A generator without conditioning has no CLIP score."""
    figures: dict[str, float] = {"nfe": result.metrics.student.nfe}
    figures |= {f"ratio.{k}": v for k, v in result.metrics.ratio.fd.items()}
    if result.metrics.ratio.unseen is not None:
        figures["ratio.unseen"] = result.metrics.ratio.unseen
    for measure in (m for m in MEASURES.values() if m.headline):
        values = result.metrics.student.values(measure.name)
        figures |= {f"{measure.name}.{k}" if k else measure.name: v for k, v in values.items()}
    shown = {key: f"{value:.6g}" for key, value in figures.items()}
    return {RESULT: result.digest, **shown, **judge_tags(result.metrics)}


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("long", "label", required=False), ColSpec("string", "prompt", required=False)]),
        outputs=Schema([ColSpec("string", "png")]),
        params=ParamSchema([ParamSpec("seed", "long", 0), ParamSpec("images", "long", 1)]),
    )


def _input_example() -> "tuple[pd.DataFrame, dict[str, int]]":
    import pandas as pd

    return pd.DataFrame({"label": [0]}), {"seed": 0, "images": 1}
