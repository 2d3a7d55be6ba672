"""Lists data in folders before a run, so that a mistake in them is reported before a server or a worktree is made.

Stage `data` lists them once more, and reads every image.
"""

import threading
from collections.abc import Iterator

from dmd.config import NONE, DataConfig, Params, fewest_images
from dmd.errors import UserError
from flows.preflight.run import Run

PATIENCE = 5.0  # seconds for all folders; those whose listing takes longer are left to the stage


def check_data(run: Run) -> Iterator[str]:
    """Yield the mistakes that a listing of each folder finds within PATIENCE seconds."""
    if "data" not in run.stages or not (distinct := _list_distinct(run)):
        return
    from dmd.preparation.prepare import list_parts  # it imports torch, which takes seconds

    mistakes = list[UserError]()

    def list_all() -> None:
        for params in distinct:
            try:
                list_parts(_with_whole_path(params.data, run), fewest_images(params))
            except UserError as e:
                mistakes.append(e)

    thread = threading.Thread(target=list_all, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    for mistake in list(mistakes):
        yield from str(mistake).splitlines()


def _list_distinct(run: Run) -> list[Params]:
    """The parameters whose data are in folders, one for each kind of data."""
    folders = [p for p in run.params if p.data.folder != NONE]
    return list({(p.data.model_dump_json(), *fewest_images(p).values()): p for p in folders}.values())


def _with_whole_path(data: DataConfig, run: Run) -> DataConfig:
    return data.model_copy(update={"folder": str(run.root / data.folder)})
