"""The registered model: labels or prompts in, PNG images out, one network pass for each step.

It needs nothing of this project.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage]
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image

MOST_IMAGES = 4096  # in one request
BATCH = 512


class OneStepGenerator(PythonModel):
    """The noise of a request is drawn image by image from its seed, so a longer request begins like a shorter one."""

    def load_context(self, context: PythonModelContext) -> None:
        folder = Path(context.artifacts["generator"])
        about = json.loads((folder / "generator.json").read_text())
        self.steps: list[dict[str, float]] = about["steps"]
        self.shape: list[int] = about["shape"]
        self.classes: list[str] = about["classes"]
        self.captions: list[str] = about["captions"]  # of the classes; empty unless the network reads text
        self.pipe: Any = DiffusionPipeline.from_pretrained(folder)
        net = getattr(self.pipe, "unet", None) or self.pipe.transformer
        self.net: Any = net.eval()
        self.conditional = getattr(net.config, "num_class_embeds", 1) is not None

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """A frame of `label` or `prompt`, as asked, and `png`, the latter in base64."""
        params = params or {}
        seed, images = int(params.get("seed", 0)), int(params.get("images", 1))
        column = "prompt" if "prompt" in model_input and bool(model_input["prompt"].notna().all()) else "label"
        asked = self._prompts(model_input) if column == "prompt" else self._labels(model_input)
        self._check(len(asked), seed, images)
        wanted = [one for one in asked for _ in range(images)]
        rng = torch.Generator().manual_seed(seed)
        z = [torch.randn(len(self.steps), *self.shape, generator=rng) for _ in wanted]
        pngs = [png for i in range(0, len(z), BATCH) for png in self._draw(z[i : i + BATCH], wanted[i : i + BATCH])]
        return pd.DataFrame({column: wanted, "png": pngs})

    def _labels(self, model_input: pd.DataFrame) -> list[int]:
        if "label" not in model_input or bool(model_input["label"].isna().any()):
            raise MlflowException.invalid_parameter_value("label: missing; every row needs one.")
        asked = [int(label) for label in model_input["label"]]
        count = max(len(self.classes), 1)  # a generator without classes knows the label 0 alone
        if wrong := sorted({label for label in asked if not 0 <= label < count}):
            text = f"label: {wrong[0]} is unknown; labels go from 0 to {count - 1}."
            raise MlflowException.invalid_parameter_value(text)
        return asked

    def _prompts(self, model_input: pd.DataFrame) -> list[str]:
        if not self.captions:
            raise MlflowException.invalid_parameter_value("prompt: this generator reads no text; give labels.")
        return [str(prompt) for prompt in model_input["prompt"]]

    def _check(self, rows: int, seed: int, images: int) -> None:
        if not 0 <= seed < 2**63:
            raise MlflowException.invalid_parameter_value(f"seed: {seed} is not allowed; it must be 0 or more.")
        if images < 1:
            raise MlflowException.invalid_parameter_value(f"images: {images} is not allowed; it must be 1 or more.")
        if rows * images > MOST_IMAGES:
            text = f"images: {rows} rows x {images} images are too many; one request makes up to {MOST_IMAGES}."
            raise MlflowException.invalid_parameter_value(text)

    @torch.inference_mode()
    def _draw(self, z: list[torch.Tensor], wanted: list[Any]) -> list[str]:
        noise, told = torch.stack(z), self._told(wanted)
        x0 = torch.zeros_like(noise[:, 0])
        for k, step in enumerate(self.steps):  # as in the card of the generator's folder
            x_t = step["alpha"] * x0 + step["sigma"] * noise[:, k]
            time = torch.full((len(x_t),), step["time"])
            out = self.net(step["c_in"] * x_t, time, **told).sample[:, : x_t.shape[1]]
            x0 = step["c_skip"] * x_t + step["c_out"] * out
        vae = getattr(self.pipe, "vae", None)
        if vae is not None:
            x0 = vae.decode(x0 / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        pixels = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [_png(image) for image in pixels]

    def _told(self, wanted: list[Any]) -> dict[str, Any]:
        """What the network is told of the conditions: labels, or the embedding of each text."""
        if self.captions:
            texts = [self.captions[one] if isinstance(one, int) else one for one in wanted]
            different = sorted(set(texts))
            each = [different.index(text) for text in texts]
            embeds, _, *pooled = self.pipe.encode_prompt(
                different, device=torch.device("cpu"), num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            told = {"encoder_hidden_states": embeds[each]}
            return told | ({"added_cond_kwargs": self._added(pooled[0][each])} if pooled else {})
        return {"class_labels": torch.tensor(wanted)} if self.conditional else {}

    def _added(self, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """What SDXL is told beside: each text as a whole, and the image's size, original and target, uncropped."""
        size = [side * self.pipe.vae_scale_factor for side in self.shape[1:]]
        return {"text_embeds": pooled, "time_ids": torch.tensor([[*size, 0, 0, *size]]).expand(len(pooled), -1)}


def _png(image: Any) -> str:
    """[H,W,C] uint8 -> base64 of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


set_model(OneStepGenerator())
