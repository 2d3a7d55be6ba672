"""Small teachers in the hub's format, with random weights.

The folders have the layout of google/ddpm-cifar10-32, facebook/DiT-XL-2-256, Stable Diffusion 1.5 and SDXL.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiffusionPipeline,
    DiTPipeline,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from dmd.diffusion.denoiser import Denoiser
from dmd.teachers.teacher import Teacher, load_teacher
from dmd.training.tokenizer import new_tokenizer
from tests.helpers.networks import CPU, lively
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.text_transformers import TRANSFORMERS

BETAS: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TOKENS = 40

# Run the code of each generator's card where this project cannot be imported, and save image.npy in its folder.
CARDS = """
import importlib.util, os, sys
import numpy
assert importlib.util.find_spec("dmd") is None and importlib.util.find_spec("stages") is None
for folder in sys.argv[1:]:
    os.chdir(folder)
    names = {}
    exec(open("README.md").read().split("```python\\n")[1].split("```")[0], names)
    numpy.save("image.npy", numpy.asarray(names["image"] if "image" in names else names["pixels"][0, 0]))
"""


# Sample an unconditional generator with the diffusers pipeline of its model_index.json, and save stock.npy.
STOCK = """
import importlib.util, sys
import numpy, torch
from diffusers import DiffusionPipeline
assert importlib.util.find_spec("dmd") is None and importlib.util.find_spec("stages") is None
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
image = pipe(num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="np").images[0]
numpy.save(sys.argv[1] + "/stock.npy", (image * 255).round().astype("uint8").squeeze())
"""


def ddpm(folder: Path) -> None:
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None, downsample_padding=0, flip_sin_to_cos=False, freq_shift=1,
    )  # fmt: skip
    DDPMPipeline(lively(net), DDPMScheduler(variance_type="fixed_large")).save_pretrained(folder)


def dit(folder: Path) -> None:
    """A DiT that also predicts a variance, as DiT-XL does."""
    net = transformer(out_channels=8)
    DiTPipeline(net, vae(), DDIMScheduler(clip_sample=False)).save_pretrained(folder)  # type: ignore[arg-type]


def transformer(out_channels: int | None = None) -> DiTTransformer2DModel:
    return lively(
        DiTTransformer2DModel(
            num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=out_channels, num_layers=2,
            sample_size=4, patch_size=2, num_embeds_ada_norm=10,
        )
    )  # fmt: skip


def stable_diffusion(folder: Path) -> None:
    pipe = StableDiffusionPipeline(
        vae=vae(), text_encoder=text_encoder(CLIPTextModel), tokenizer=new_tokenizer(folder, TOKENS),
        unet=text_unet(16), scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.save_pretrained(folder)


def sdxl(folder: Path) -> None:
    """An SDXL pipeline: two text encoders, the second pooled; size conditioning; zeros for the empty prompt."""
    size_and_crop, pooled = 6 * 8, 24
    unet = text_unet(
        16 + 16, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=size_and_crop + pooled,
    )  # fmt: skip
    tokenizer = new_tokenizer(folder, TOKENS)
    pipe = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=text_encoder(CLIPTextModel),
        text_encoder_2=text_encoder(CLIPTextModelWithProjection, projection_dim=pooled), tokenizer=tokenizer,
        tokenizer_2=tokenizer, unet=unet, scheduler=EulerDiscreteScheduler(**BETAS, steps_offset=1),
    )  # fmt: skip
    pipe.save_pretrained(folder)


KINDS = {"ddpm": ddpm, "dit": dit, "sd": stable_diffusion, "sdxl": sdxl, **TRANSFORMERS}


def hub_folder(kind: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    KINDS[kind](folder)
    return folder


def save_in_float16(folder: Path, out: Path) -> Path:
    """Save a teacher in float16, as many hub repositories do."""
    DiffusionPipeline.from_pretrained(folder, dtype=torch.float16).save_pretrained(out)
    return out


def vae() -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(8, 8), norm_num_groups=4, sample_size=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, scaling_factor=0.5,
    ).eval()  # fmt: skip


def text_unet(width: int, in_channels: int = 4, **more: Any) -> UNet2DConditionModel:
    return lively(
        UNet2DConditionModel(
            sample_size=4, in_channels=in_channels, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=4, cross_attention_dim=width,
            attention_head_dim=8, **more,
        )
    )  # fmt: skip


def text_encoder(kind: Any, **more: Any) -> Any:
    config = CLIPTextConfig(
        vocab_size=515, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=TOKENS, bos_token_id=512, eos_token_id=513, pad_token_id=514, **more,
    )  # fmt: skip
    return lively(kind(config))


def load(folder: Path) -> Teacher:
    """Load a teacher, with the captions of digits."""
    return load_teacher(folder, CPU, captions=CAPTIONS)


def perturb_trainable(denoiser: Denoiser) -> Denoiser:
    """Perturb the trainable weights, since new adapters start at zero."""
    with torch.no_grad():
        for p in denoiser.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape))
    return denoiser.eval()


def conditions(teacher: Teacher, n: int) -> torch.Tensor | None:
    """The first n labels, or None for an unconditional teacher."""
    return torch.arange(n) if teacher.conditions else None
