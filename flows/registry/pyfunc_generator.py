"""The registered model: PNG images from labels or prompts, one network pass for each step.

The copy of this file in the registry holds the source of `run_steps` instead of its import, so that it runs without
this project.
"""

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

from dmd.generator.standalone import run_steps

MAX_IMAGES = 4096  # in one request
BATCH = 512  # images at once, fewer of large images
PIXELS = BATCH * 64 * 64  # largest number of pixels at once: the memory of network and VAE grows with it


class OneStepGenerator(PythonModel):
    """The generator behind MLflow's interface.

    Noise is drawn image by image from the seed of the request, so the first images do not depend on their number.
    """

    def load_context(self, context: PythonModelContext) -> None:
        """Load the generator folder."""
        folder = Path(context.artifacts["generator"])
        about = json.loads((folder / "generator.json").read_text())
        self.steps: list[dict[str, float]] = about["steps"]
        self.noises = sum("previous" not in step for step in self.steps)  # a step of the ODE needs none
        self.shape: list[int] = about["shape"]
        self.classes: list[str] = about["classes"]
        self.captions: list[str] = about["captions"]  # one for each class; empty unless the network reads text
        self.stock: dict[str, Any] | None = about.get("pipeline")  # how to call the pipeline of a text transformer
        self.pipe: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
        self.pipe.set_progress_bar_config(disable=True)
        net = getattr(self.pipe, "unet", None) or self.pipe.transformer
        self.net: Any = net.eval()
        self.conditional = getattr(net.config, "num_class_embeds", 1) is not None

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Table with the requested column (`label` or `prompt`) and `png`, the image in base64."""
        params = params or {}
        seed, images = int(params.get("seed", 0)), int(params.get("images", 1))
        column = "prompt" if "prompt" in model_input and bool(model_input["prompt"].notna().all()) else "label"
        rows = self._prompts(model_input) if column == "prompt" else self._labels(model_input)
        self._check(len(rows), seed, images)
        conditions = [row for row in rows for _ in range(images)]
        rng = torch.Generator().manual_seed(seed)
        pngs, size = [], self._batch_size()
        for part in (conditions[i : i + size] for i in range(0, len(conditions), size)):
            z = [torch.randn(self.noises, *self.shape, generator=rng) for _ in part]
            pngs += self._draw(z, part)
        return pd.DataFrame({column: conditions, "png": pngs})

    def _batch_size(self) -> int:
        if self.stock:
            factor = self.pipe.vae_scale_factor
        elif getattr(self.pipe, "vae", None) is None:
            factor = 1
        else:
            factor = 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        return max(1, min(BATCH, PIXELS // (factor**2 * self.shape[1] * self.shape[2])))

    def _labels(self, model_input: pd.DataFrame) -> list[int]:
        if "label" not in model_input or bool(model_input["label"].isna().any()):
            raise MlflowException.invalid_parameter_value("label: missing; every row needs one.")
        labels = [int(label) for label in model_input["label"]]
        count = max(len(self.classes), 1)  # a generator without classes has label 0 only
        if wrong := sorted({label for label in labels if not 0 <= label < count}):
            text = f"label: {wrong[0]} is unknown; labels go from 0 to {count - 1}."
            raise MlflowException.invalid_parameter_value(text)
        return labels

    def _prompts(self, model_input: pd.DataFrame) -> list[str]:
        if not self.captions:
            raise MlflowException.invalid_parameter_value("prompt: this generator reads no text; give labels.")
        return [str(prompt) for prompt in model_input["prompt"]]

    def _check(self, rows: int, seed: int, images: int) -> None:
        if not 0 <= seed < 2**63:
            raise MlflowException.invalid_parameter_value(f"seed: {seed} is not allowed; it must be 0 or more.")
        if images < 1:
            raise MlflowException.invalid_parameter_value(f"images: {images} is not allowed; it must be 1 or more.")
        if rows * images > MAX_IMAGES:
            text = f"images: {rows} rows x {images} images are too many; one request makes up to {MAX_IMAGES}."
            raise MlflowException.invalid_parameter_value(text)

    @torch.inference_mode()
    def _draw(self, z: list[torch.Tensor], conditions: list[Any]) -> list[str]:
        if self.stock:
            images = self._run_pipeline(torch.stack(z), conditions).movedim(1, -1)
            return [_png(image) for image in (images * 255).round().to(torch.uint8).numpy()]
        x = run_steps(self.net, self.steps, torch.stack(z), **self._conditioning(conditions))
        vae = getattr(self.pipe, "vae", None)
        if vae is not None:
            x = vae.decode(x / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [_png(image) for image in pixels]

    def _run_pipeline(self, z: torch.Tensor, conditions: list[Any]) -> torch.Tensor:
        """Images [B, C, H, W] in [0, 1] of the stock pipeline, from unit noise z [B, steps, C, H, W].

        The pipeline's scheduler draws the noise of later steps by itself; in its place, a copy takes it from z.
        """
        assert self.stock is not None
        noises = list(z.unbind(1))
        if self.stock["packed"]:
            noises = [self.pipe._pack_latents(noise, *noise.shape) for noise in noises]
        elif self.stock.get("steps_on_tokens"):
            noises[1:] = [noise.flatten(2).mT for noise in noises[1:]]  # [B, H W, C]
        pipe = copy.copy(self.pipe)  # requests may run at the same time
        pipe.scheduler = _follow(self.pipe.scheduler, self.steps, noises)
        texts = [self.captions[c] if isinstance(c, int) else c for c in conditions]
        return pipe(prompt=texts, latents=noises[0], output_type="pt", **self.stock["call"]).images

    def _conditioning(self, conditions: list[Any]) -> dict[str, Any]:
        """Keyword arguments of the network for a batch: labels, or the embedding of each text."""
        if self.captions:
            texts = [self.captions[c] if isinstance(c, int) else c for c in conditions]
            different = sorted(set(texts))
            position = {text: i for i, text in enumerate(different)}
            index = [position[text] for text in texts]
            embeds, _, *pooled = self.pipe.encode_prompt(
                different, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            arguments = {"encoder_hidden_states": embeds[index]}
            return arguments | ({"added_cond_kwargs": self._sdxl_conditioning(pooled[0][index])} if pooled else {})
        return {"class_labels": torch.tensor(conditions)} if self.conditional else {}

    def _sdxl_conditioning(self, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """SDXL's additional conditioning: pooled text [B, D]; original size, crop offset (zero) and target size."""
        size = [side * self.pipe.vae_scale_factor for side in self.shape[1:]]
        return {"text_embeds": pooled, "time_ids": torch.tensor([[*size, 0, 0, *size]]).expand(len(pooled), -1)}


def _follow(scheduler: Any, steps: list[dict[str, float]], noises: list[torch.Tensor]) -> Any:
    """A copy of a scheduler whose `step` follows the steps of generator.json with the given noise of each step."""
    done = []

    def step(output: torch.Tensor, t: Any, x_t: torch.Tensor, **others: Any) -> tuple[torch.Tensor]:
        now = steps[len(done)]
        x = now["c_skip"] * x_t + now["c_out"] * output
        done.append(t)
        if len(done) == len(steps):
            return (x,)
        following = steps[len(done)]
        if "previous" in following:
            return (following["alpha"] * x + following["previous"] * x_t,)
        return (following["alpha"] * x + following["sigma"] * noises[len(done)],)

    new = copy.copy(scheduler)
    new.step = step
    return new


def _png(image: np.ndarray) -> str:
    """Encode an image [H, W, C], uint8, as a PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


set_model(OneStepGenerator())
