"""Distribution Matching Distillation: turns a diffusion teacher into a one-step generator.

Read it in this order: diffusion/process.py, diffusion/denoiser.py, distillation/losses.py, distillation/methods,
distillation/trainer.py, generator/export.py.
The package depends on torch and diffusers, but not on DVC, Prefect or MLflow.

`from dmd import NAME` offers the names below; docs/python_api.md uses them. Each is imported when it is first used, so
that `import dmd` imports no torch. The names are strings here, and their imports are in dmd/__init__.pyi, which editors
and type checkers read: an import statement here would make every stage depend on all of these modules.
"""

from importlib import import_module

NAMES = {
    "Denoiser": "dmd.diffusion.denoiser",
    "Distillation": "dmd.library",
    "Generator": "dmd.generator.generator",
    "Params": "dmd.config",
    "Sampler": "dmd.samplers.sampler",
    "Split": "dmd.data.splits",
    "Teacher": "dmd.teachers.teacher",
    "choose_device": "dmd.device",
    "load_generator": "dmd.generator.generator",
    "load_params": "dmd.config",
    "load_split": "dmd.data.splits",
    "load_teacher": "dmd.teachers.teacher",
}
__all__ = list(NAMES)  # pyright: ignore[reportUnsupportedDunderAll] - the stub declares them


def __getattr__(name: str) -> object:
    """Import a public name from its module."""
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(NAMES[name]), name)


def __dir__() -> list[str]:
    """The public names and those that are defined here, for completion in notebooks."""
    return sorted({*globals(), *NAMES})
