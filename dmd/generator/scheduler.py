"""The scheduler that is exported with a generator, so that diffusers' stock pipeline makes its images."""

from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

from dmd.codecs.latents import Latents
from dmd.diffusion.process import flow_shift, is_flow
from dmd.errors import TeacherError
from dmd.families.transformers.base import TextTransformer
from dmd.networks.dit import DitWrapper
from dmd.samplers.few_step import Between
from dmd.teachers.teacher import Teacher


def sampling_scheduler(teacher: Teacher, times: tuple[int, ...], between: Between = "fresh") -> Any:
    """The scheduler with which the stock pipeline makes the images of a generator with these steps.

    Stock pipelines start at the last index of a schedule. For a generator that starts earlier, the schedule ends there.
    """
    scheduler = teacher.pipeline.scheduler
    if is_flow(scheduler) and isinstance(net := teacher.denoiser.net, TextTransformer):
        return _flow_scheduler(scheduler, net.family.flow_mu(teacher.pipeline, teacher.shape), between)
    if not hasattr(scheduler, "alphas_cumprod"):
        return scheduler
    config = {**scheduler.config, "clip_sample": False, "thresholding": False}
    if (length := times[0] + 1) < teacher.denoiser.process.timesteps:
        betas = scheduler.betas[:length].tolist()  # already rescaled, if rescale_betas_zero_snr is set
        config |= {"num_train_timesteps": length, "trained_betas": betas, "rescale_betas_zero_snr": False}
    if isinstance(teacher.codec, Latents):  # predicts x0 and adds fresh noise, as backward simulation does
        lcm: Any = LCMScheduler.from_config(config, original_inference_steps=len(times))
        return lcm
    ddim: Any = DDIMScheduler.from_config(config, timestep_spacing="trailing", set_alpha_to_one=True)
    return ddim


def _flow_scheduler(scheduler: Any, mu: float | None, between: Between) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler with the teacher's schedule, fixed for its image size, that adds fresh noise or follows the ODE."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=scheduler.config.num_train_timesteps,
        shift=flow_shift(scheduler, mu),
        stochastic_sampling=between == "fresh",
    )


def check_exportable(teacher: Teacher, times: tuple[int, ...], between: Between = "fresh") -> None:
    """Raise TeacherError if the teacher's stock pipeline could not run a generator of these steps."""
    text_flow = isinstance(teacher.denoiser.net, TextTransformer) and is_flow(teacher.pipeline.scheduler)
    if between == "ode" and not text_flow:
        raise TeacherError(
            "method.levels.between: ode is exported only for flows of text transformers, but the teacher is a "
            f"{type(teacher.pipeline).__name__} with {type(teacher.pipeline.scheduler).__name__}; use fresh"
        )
    if not isinstance(teacher.denoiser.net, DitWrapper):
        return
    fixed = not hasattr(teacher.pipeline.scheduler, "alphas_cumprod")
    if fixed and times[0] != (last := teacher.denoiser.process.timesteps - 1):
        raise TeacherError(
            f"method.generator_timestep: {times[0]} cannot be set in diffusers' DiTPipeline, which starts at {last} "
            f"with {type(teacher.pipeline.scheduler).__name__}; use auto"
        )
    if not fixed and times != (own := _scheduler_times(teacher, times)):
        raise TeacherError(
            f"method.generator_timestep: the steps from {times[0]} are {times}, and diffusers' DiTPipeline, "
            f"which is given only their number, would take {own}; use {times[0] - (times[0] + 1) % len(times)}"
        )


def _scheduler_times(teacher: Teacher, times: tuple[int, ...]) -> tuple[int, ...]:
    """The steps that the exported scheduler takes by itself, given their number."""
    scheduler = sampling_scheduler(teacher, times)
    scheduler.set_timesteps(len(times))
    return tuple(scheduler.timesteps.tolist())
