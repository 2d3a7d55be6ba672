"""Checks that the paths in params.yaml exist, before a run begins any work."""

from collections.abc import Iterator
from pathlib import Path

from dmd.config import NONE, Params, load_params
from dmd.errors import ConfigError


def load_run_params(file: Path, root: Path) -> Params:
    """Read params.yaml for a run in `root`: validate it and check its paths.

    Raises ConfigError with one line for each mistake.
    """
    params = load_params(file)
    check_paths(params, root, str(file))
    return params


def check_paths(params: Params, root: Path, where: str) -> None:
    """Raise ConfigError with one line, prefixed by `where`, for each path that does not exist below `root`."""
    if mistakes := [f"{where}: {mistake}" for mistake in _mistakes(params, root)]:
        raise ConfigError("\n".join(mistakes))


def _mistakes(params: Params, root: Path) -> Iterator[str]:
    data, method, measured = params.data, params.method, params.baseline.measured
    if data.folder != NONE and not (root / data.folder).is_dir():
        yield f"data.folder: {data.folder!r} is not a folder; give one that exists, or {NONE}"
    elif data.source == "prompts" and data.captions == NONE and any((root / data.folder).glob("*.parquet")):
        yield "data.captions: parquet files need the name of the column that holds the prompts"
    for name, network in (("teacher", params.teacher), ("evaluator", params.evaluator)):
        if network.source == "folder" and not (root / network.folder).is_dir():
            yield f"{name}.folder: {network.folder!r} is not a folder; source: folder needs one that exists"
    if measured != NONE and not (root / measured).is_file():
        yield f"baseline.measured: {measured!r} is not a file; give one that exists, or {NONE}"
    if method.init_from != NONE and not (root / method.init_from).is_dir():
        yield f"method.init_from: {method.init_from!r} is not a folder; give the folder of a generator, or {NONE}"
    if method.regression_loss == "lpips" and not (root / method.lpips.weights).is_file():
        yield f"method.lpips.weights: {method.lpips.weights!r} is not a file; regression_loss: lpips needs a VGG16"
