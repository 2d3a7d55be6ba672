"""Checks that the paths in params.yaml exist and that a teacher's schedule is long enough, before a run begins."""

from collections.abc import Iterator
from pathlib import Path

from dmd.config import NONE, Params, load_params
from dmd.errors import ConfigError
from dmd.yaml_files import is_file, is_folder, load_object


def load_run_params(file: Path, root: Path) -> Params:
    """Read params.yaml for a run in `root`: validate it and check its paths.

    Raises ConfigError with one line for each mistake.
    """
    params = load_params(file)
    check_paths(params, root, str(file))
    return params


def check_paths(params: Params, root: Path, where: str) -> None:
    """Raise ConfigError with one line, prefixed by `where`, for each path below `root` that is missing or unfit."""
    if mistakes := [f"{where}: {mistake}" for mistake in _mistakes(params, root)]:
        raise ConfigError("\n".join(mistakes))


def _mistakes(params: Params, root: Path) -> Iterator[str]:
    data, method, measured = params.data, params.method, params.baseline.measured
    if data.folder != NONE and not is_folder(root / data.folder):
        yield f"data.folder: {data.folder!r} is not a folder; give one that exists, or {NONE}"
    elif data.source == "prompts" and data.captions == NONE and any((root / data.folder).glob("*.parquet")):
        yield "data.captions: parquet files need the name of the column that holds the prompts"
    if params.encode.prompts != NONE and not is_file(root / params.encode.prompts):
        yield f"encode.prompts: {params.encode.prompts!r} is not a file; give one that exists, or {NONE}"
    for name, network in (("teacher", params.teacher), ("evaluator", params.evaluator)):
        if network.source == "folder" and not is_folder(root / network.folder):
            yield f"{name}.folder: {network.folder!r} is not a folder; source: folder needs one that exists"
    if params.teacher.init_from != NONE and not is_folder(root / params.teacher.init_from):
        yield f"teacher.init_from: {params.teacher.init_from!r} is not a folder; give a teacher's folder, or {NONE}"
    if params.teacher.source == "folder" and (timesteps := _read_timesteps(root / params.teacher.folder)) is not None:
        yield from params.beyond_schedule(timesteps)
    if measured != NONE and not is_file(root / measured):
        yield f"baseline.measured: {measured!r} is not a file; give one that exists, or {NONE}"
    if method.init_from != NONE and not is_folder(root / method.init_from):
        yield f"method.init_from: {method.init_from!r} is not a folder; give the folder of a generator, or {NONE}"
    if method.regression_loss == "lpips" and not is_file(root / method.lpips.weights):
        yield f"method.lpips.weights: {method.lpips.weights!r} is not a file; regression_loss: lpips needs a VGG16"


def _read_timesteps(folder: Path) -> int | None:
    """Return the number of noise levels of a pipeline folder; None if its scheduler's config cannot be read."""
    try:
        config = load_object(folder / "scheduler" / "scheduler_config.json", ConfigError)
        return int(config["num_train_timesteps"])
    except (ConfigError, ValueError, KeyError, TypeError, OverflowError):  # OverflowError: Infinity
        return None
