"""Transformers that read text: their predictions, latents and conditions are those of their stock pipelines."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor

from dmd.diffusion.denoiser import Guided, GuidedByInput
from dmd.families.pipelines import find_family, load_pipeline
from dmd.families.transformers.base import pack, unpack
from dmd.samplers.ddim import ode_times, predict_x0_and_eps
from dmd.teachers.teacher import Teacher, load_teacher
from tests.helpers.networks import CPU
from tests.helpers.sources import CAPTIONS
from tests.helpers.teachers.text_transformers import TRANSFORMERS, from_tokens, to_tokens

STEPS, SCALE = 4, 3.0
SIGMAS = np.linspace(1, 1 / STEPS, STEPS).tolist()
# What the stock pipeline's call needs for guidance by SCALE and the steps of ode_times.
CALLS: dict[str, dict[str, Any]] = {
    "sd3": {"guidance_scale": SCALE, "sigmas": SIGMAS},
    "flux": {"guidance_scale": SCALE, "num_inference_steps": STEPS},
    "flux2": {"guidance_scale": SCALE, "num_inference_steps": STEPS},
    "pixart": {"guidance_scale": SCALE, "num_inference_steps": STEPS, "use_resolution_binning": False},
    "sana": {"guidance_scale": SCALE, "sigmas": SIGMAS, "use_resolution_binning": False},
    "lumina2": {"guidance_scale": SCALE, "num_inference_steps": STEPS},
    "qwen_image": {"true_cfg_scale": SCALE, "num_inference_steps": STEPS, "negative_prompt": ""},
    "z_image": {"guidance_scale": SCALE - 1, "num_inference_steps": STEPS},  # c + scale (c - u)
    "aura_flow": {"guidance_scale": SCALE, "sigmas": SIGMAS},
}
SIZES = {kind: 32 if kind in ("sana", "lumina2") else 8 for kind in TRANSFORMERS}  # of images


def stock_pipeline(kind: str, folder: Path) -> Any:
    """The pipeline of the folder, with a first-order scheduler in place of a solver of higher order."""
    pipe: Any = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    if kind == "pixart":
        pipe.scheduler = DDIMScheduler.from_config(
            pipe.scheduler.config, timestep_spacing="trailing", clip_sample=False, set_alpha_to_one=True
        )
    if kind == "qwen_image":  # its default list ends at this level, which moves the others
        pipe.scheduler.register_to_config(shift_terminal=None)
    if kind == "flux2":  # its shift depends on the number of steps, ours is that of the pipeline's default
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=math.exp(compute_empirical_mu(4, 50)))
    if kind == "sana":
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=pipe.scheduler.config.flow_shift)
    return pipe


def stock_steps(kind: str, folder: Path, z: Tensor, caption: str) -> list[Tensor]:
    """The latents [1, C, H, W] after each step of the stock pipeline's own loop."""
    pipe, steps = stock_pipeline(kind, folder), list[Tensor]()
    step = pipe.scheduler.step

    def record(*args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        steps.append(output[0])
        return output

    pipe.scheduler.step = record
    latents = z if kind == "flux2" else to_tokens(kind, z)
    pipe(prompt=caption, latents=latents, height=SIZES[kind], width=SIZES[kind], output_type="latent", **CALLS[kind])
    return [from_tokens(kind, x, *z.shape[2:]) for x in steps]


@torch.no_grad()
def our_steps(teacher: Teacher, z: Tensor, label: int) -> list[Tensor]:
    """The latents after each step of DDIM, which is Euler's method for a flow."""
    cond, process = torch.tensor([label]), teacher.guided.process
    times = [torch.tensor([t]) for t in ode_times(process.timesteps, STEPS)]
    x, steps = process.prior(z, times[0]), []
    for now, following in itertools.pairwise([*times, None]):
        x0, eps = predict_x0_and_eps(teacher.guided, x, now, cond)
        x = x0 if following is None else process.add_noise(x0, eps, following)
        steps.append(x)
    return steps


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_guided_steps_equal_those_of_the_stock_pipeline(folders: dict[str, Path], kind: str) -> None:
    teacher = load_teacher(folders[kind], CPU, SCALE, CAPTIONS)
    z = torch.randn(1, *teacher.shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = our_steps(teacher, z, 3), stock_steps(kind, folders[kind], z, CAPTIONS[3])
    assert len(ours) == len(theirs) == STEPS
    for x, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))
    assert not torch.allclose(ours[-1], our_steps(teacher, z, 4)[-1], rtol=1e-2)  # the caption has an effect


def test_flux2_has_the_noise_levels_of_its_pipeline_at_the_default_number_of_steps(folders: dict[str, Path]) -> None:
    teacher = load_teacher(folders["flux2"], CPU, captions=CAPTIONS)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 50, 50), mu=compute_empirical_mu(4, 50))
    levels = teacher.denoiser.process.sigma_grid[list(ode_times(1000, 50))]
    torch.testing.assert_close(levels.float(), scheduler.sigmas[:-1].cpu(), rtol=1e-6, atol=1e-6)


def test_only_a_network_that_embeds_the_guidance_scale_is_guided_by_its_input(folders: dict[str, Path]) -> None:
    guided = {kind: type(load_teacher(folders[kind], CPU, SCALE, CAPTIONS).guided) for kind in TRANSFORMERS}
    assert guided == {kind: GuidedByInput if kind == "flux" else Guided for kind in TRANSFORMERS}


def test_packed_latents_are_those_of_the_pipeline() -> None:
    x = torch.randn(2, 4, 6, 8)
    from diffusers import FluxPipeline

    assert torch.equal(pack(x), FluxPipeline._pack_latents(x, 2, 4, 6, 8))
    assert torch.equal(unpack(pack(x), 6, 8), x)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_images_are_decoded_as_by_the_stock_pipeline(folders: dict[str, Path], kind: str) -> None:
    """Scale and shift of the latents are the pipeline's; encoding inverts them."""
    teacher, pipe = load_teacher(folders[kind], CPU, captions=CAPTIONS), stock_pipeline(kind, folders[kind])
    x = torch.randn(1, *teacher.shape)
    pipe.scheduler.step = lambda *args, **kwargs: (to_tokens(kind, x),)
    image = pipe(prompt=CAPTIONS[0], height=SIZES[kind], width=SIZES[kind], output_type="pt", **CALLS[kind]).images
    torch.testing.assert_close(((teacher.codec.decode(x) + 1) / 2).clamp(0, 1), image, rtol=1e-5, atol=1e-5)
    images = torch.rand(2, 1, SIZES[kind], SIZES[kind]) * 2 - 1
    encoded, codec = teacher.codec.encode(images), teacher.codec
    raw = codec.vae.encode(images[:, :, None] if codec.layout.takes_video else images)
    raw = raw.latent if kind == "sana" else raw.latent_dist.mode()
    raw = raw[:, :, 0] if codec.layout.takes_video else raw
    raw = pipe._patchify_latents(raw) if kind == "flux2" else raw
    torch.testing.assert_close(encoded / codec.scale + codec.shift, raw, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["pixart", "sana", "lumina2", "qwen_image", "z_image", "aura_flow"])
def test_only_the_tokens_of_a_caption_are_kept(folders: dict[str, Path], kind: str) -> None:
    """The pipelines pad captions to one length, which their networks mask."""
    pipe = load_pipeline(folders[kind])
    rows = find_family(pipe, folders[kind]).embed(pipe, ["a", "a longer caption"])["embeddings"]
    assert rows.lengths[0] < rows.lengths[1] < rows.longest
    assert len(rows.values) == rows.lengths.sum()
