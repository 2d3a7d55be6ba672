"""Versions of the packages that figures depend on."""

from importlib.metadata import version

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "scikit-learn")


def installed_versions() -> dict[str, str]:
    """Installed version of each package."""
    return {name: version(name) for name in PACKAGES}
