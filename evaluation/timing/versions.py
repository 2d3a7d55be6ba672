"""The versions that a figure depends on."""

from importlib.metadata import version

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Package -> installed version."""
    return {name: version(name) for name in PACKAGES}
