"""The registered model: labels in, PNG images out, one network pass for each step. It needs nothing of this project."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
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
        self.unet: Any = UNet2DModel.from_pretrained(folder, subfolder="unet").eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """A frame of `label` and `png`, the latter in base64."""
        params = params or {}
        seed, images = int(params.get("seed", 0)), int(params.get("images", 1))
        labels = self._labels(model_input, seed, images)
        rng = torch.Generator().manual_seed(seed)
        z = [torch.randn(len(self.steps), *self.shape, generator=rng) for _ in labels]
        pngs = [png for i in range(0, len(z), BATCH) for png in self._draw(z[i : i + BATCH], labels[i : i + BATCH])]
        return pd.DataFrame({"label": labels, "png": pngs})

    def _labels(self, model_input: pd.DataFrame, seed: int, images: int) -> list[int]:
        """Each label `images` times, in the order of the request."""
        asked = [int(label) for label in model_input["label"]]
        count = max(len(self.classes), 1)  # a generator without classes knows the label 0 alone
        if wrong := sorted({label for label in asked if not 0 <= label < count}):
            text = f"label: {wrong[0]} is unknown; labels go from 0 to {count - 1}."
            raise MlflowException.invalid_parameter_value(text)
        if not 0 <= seed < 2**63:
            raise MlflowException.invalid_parameter_value(f"seed: {seed} is not allowed; it must be 0 or more.")
        if images < 1:
            raise MlflowException.invalid_parameter_value(f"images: {images} is not allowed; it must be 1 or more.")
        if len(asked) * images > MOST_IMAGES:
            text = f"images: {len(asked)} labels x {images} images are too many; one request makes up to {MOST_IMAGES}."
            raise MlflowException.invalid_parameter_value(text)
        return [label for label in asked for _ in range(images)]

    @torch.inference_mode()
    def _draw(self, z: list[torch.Tensor], labels: list[int]) -> list[str]:
        noise = torch.stack(z)
        cond = torch.tensor(labels) if self.unet.config.num_class_embeds is not None else None
        x0 = torch.zeros_like(noise[:, 0])
        for k, step in enumerate(self.steps):  # as in the card of the generator's folder
            x_t = step["alpha"] * x0 + step["sigma"] * noise[:, k]
            out = self.unet(step["c_in"] * x_t, step["time"], class_labels=cond).sample
            x0 = step["c_skip"] * x_t + step["c_out"] * out
        pixels = ((x0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return [_png(image) for image in pixels]


def _png(image: Any) -> str:
    """[H,W,C] uint8 -> base64 of a PNG."""
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


set_model(OneStepGenerator())
