"""Small results that tests publish and register in MLflow."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from mlflow import MlflowClient
from PIL import Image

from evaluation.metrics.files import write_metrics
from evaluation.metrics.schema import write_model
from evaluation.timing.schema import Latency
from tests.helpers.reports import generator_measures, report_timing, run_metrics

NAME = "toy-model"
SHAPE = (1, 8, 8)
OUTS = ("artifacts/data", "artifacts/generator", "artifacts/training")
REPORTS = ("metrics.json", "details.json", "timing.json", "losses.csv", "samples.png", "index.html", "plots")
FD = {"clip": 1.25, "cnn": 0.5}
STUDENT = generator_measures(FD, half=0.05, clip_score=21.5)
METRICS = run_metrics(STUDENT, {"clip": 1.0, "cnn": 1.0})
LATENCY = Latency(nfe=1, seconds_per_image=0.001, seconds_alone=0.001, gflops_per_image=0.01)
TIMING = report_timing().model_copy(update={"student": LATENCY, "teachers": {"ddim_50": LATENCY}})


def save_generator(folder: Path, seed: int) -> None:
    """Save a tiny class-conditional generator in the format of stage `train`."""
    torch.manual_seed(seed)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        num_class_embeds=4,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    DDIMPipeline(unet, scheduler).save_pretrained(folder)
    product = scheduler.alphas_cumprod[999].double()
    first = {"time": 999, "alpha": 0.0, "sigma": 1.0, "c_in": 1.0}
    first |= {"c_skip": product.sqrt().item(), "c_out": -(1 - product).sqrt().item()}
    about = {"timesteps": [999], "steps": [first], "shape": SHAPE, "classes": ["zero", "one", "two"], "captions": []}
    (folder / "generator.json").write_text(json.dumps(about))


def make_results(source: Path, seed: int = 0) -> None:
    """Write small stand-ins for the outputs of a full run."""
    for name in ("data", "training", "reports"):
        (source / name).mkdir(parents=True)
    (source / "data" / "manifest.json").write_text("{}")
    save_generator(source / "generator", seed)
    picture = Image.new("L", (4, 4))
    picture.save(source / "training" / "turn_000100.png")
    picture.save(source / "reports" / "samples.png")
    write_metrics(METRICS, source / "reports" / "metrics.json", source / "reports" / "details.json")
    write_model(TIMING, source / "reports" / "timing.json")
    rows = "".join(f"{turn},{1 / (turn + 1)},{turn if turn % 5 == 0 else ''}\n" for turn in range(1500))
    (source / "reports" / "losses.csv").write_text(f"turn,critic,generator\n{rows}")
    (source / "reports" / "plots").mkdir()
    (source / "reports" / "plots" / "fd_clip.svg").write_text("<svg/>")
    (source / "reports" / "index.html").write_text("<html><body><!-- lineage --><!-- /lineage --></body></html>")


def reproduce(root: Path) -> None:
    """Run `dvc repro`."""
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=root, check=True)


def runs(client: MlflowClient) -> list[Any]:
    """The MLflow runs of the experiment `toy`."""
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))
