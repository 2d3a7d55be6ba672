"""Prefect flows over DVC's graph, and MLflow runs and versions of their results.

Imports go one way: flows -> stages -> evaluation -> dmd.
"""

from pathlib import Path

from flows.runtime.credentials import split_credentials
from flows.runtime.environment import set_defaults
from flows.runtime.moved import install_finder

set_defaults(Path(__file__).parents[1])  # before Prefect or MLflow is imported
split_credentials()
install_finder()
