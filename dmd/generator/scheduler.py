"""The scheduler that ships with a generator, so that diffusers' stock pipeline makes its images."""

from typing import Any

from diffusers import DDIMScheduler, LCMScheduler

from dmd.codecs.latents import Latents
from dmd.errors import TeacherError
from dmd.networks.dit import DitWrapper
from dmd.teachers.teacher import Teacher


def sampling_scheduler(teacher: Teacher, times: tuple[int, ...]) -> Any:
    """The scheduler to ship with a generator of these steps, so that the stock pipeline makes its images.

    Stock pipelines begin at a schedule's last index: one that begins earlier gets a schedule that ends there.
    """
    scheduler = teacher.pipeline.scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        return scheduler
    config = {**scheduler.config, "clip_sample": False, "thresholding": False}
    if (length := times[0] + 1) < teacher.denoiser.process.timesteps:
        betas = scheduler.betas[:length].tolist()  # as they are: rescaled already, where that is asked for
        config |= {"num_train_timesteps": length, "trained_betas": betas, "rescale_betas_zero_snr": False}
    if isinstance(teacher.codec, Latents):  # x0, noised anew to the next step: what backward simulation trained
        lcm: Any = LCMScheduler.from_config(config, original_inference_steps=len(times))
        return lcm
    made: Any = DDIMScheduler.from_config(config, timestep_spacing="trailing", set_alpha_to_one=True)
    return made


def check_exportable(teacher: Teacher, times: tuple[int, ...]) -> None:
    """Raise TeacherError where the stock pipeline of the teacher's kind could not run a generator of these steps."""
    if not isinstance(teacher.denoiser.net, DitWrapper):
        return
    last, fixed = teacher.denoiser.process.timesteps - 1, not hasattr(teacher.pipeline.scheduler, "alphas_cumprod")
    if fixed and times[0] != last:
        raise TeacherError(
            f"method.generator_timestep: {times[0]} cannot be told to diffusers' DiTPipeline, which begins at {last} "
            f"with {type(teacher.pipeline.scheduler).__name__}; use auto"
        )
    if not fixed and times != (own := _own_times(teacher, times)):
        raise TeacherError(
            f"method.generator_timestep: from {times[0]} on the steps are {times}, and diffusers' DiTPipeline, "
            f"told their number alone, would take {own}; use {times[0] - (times[0] + 1) % len(times)}"
        )


def _own_times(teacher: Teacher, times: tuple[int, ...]) -> tuple[int, ...]:
    """Those that the exported scheduler takes of itself for so many steps."""
    scheduler = sampling_scheduler(teacher, times)
    scheduler.set_timesteps(len(times))
    return tuple(scheduler.timesteps.tolist())
