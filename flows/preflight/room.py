"""The disk space that a run needs at least, from the shapes of data and networks.

An output lies in the working folder and in DVC's cache. A file system that shares equal blocks needs room for one only.
"""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from dmd.config import Params
from dmd.storage.scratch import SCRATCH
from dmd.storage.worktree import main_worktree
from flows.preflight.run import Run
from flows.registry.store import database, tracking_uri
from flows.workspace.cache import find_cache

MOMENTS = 4  # two networks with two moments of AdamW each
FLOAT = 4  # bytes
MOST_LATENTS = 4  # numbers of a latent for each number of its image: more than any known VAE has
MOST_WIDENED = 4  # bytes of a weight in float32 for each of its bytes in the teacher's files, which may be 8-bit

File = tuple[Path, str, int]  # an existing folder, the name of what is written there, and its bytes
Count = Callable[[Params, Run], dict[str, int]]  # bytes that each stage writes


def check_room(run: Run) -> Iterator[str]:
    """Yield a line for each file system that has less room than the run writes there."""
    # Networks take seconds to import and to build. Most disks have room for more than they can need.
    if all(_bound_bytes(params, run) for params in run.params) and not list(_find_full(run, _bound_bytes)):
        return
    for files, total, free in _find_full(run, _count_bytes):
        yield _explain(files, total, free)


def _find_full(run: Run, count: Count) -> Iterator[tuple[list[File], int, int]]:
    """Yield the files for each file system that lacks room for them, their bytes, and the bytes that are free."""
    needs: dict[int, list[File]] = defaultdict(list)
    for place, name, size in _list_files(run, count):
        needs[place.stat().st_dev].append((place, name, size))
    for files in needs.values():
        disk, total = shutil.disk_usage(files[0][0]), sum(size for *_, size in files)
        # A file system without a size, such as /proc, holds no files of users: places.py says that it can't be written.
        if disk.total and total > disk.free:
            yield files, total, disk.free


def _explain(files: list[File], total: int, free: int) -> str:
    from flows.plan.units import amount

    largest = sorted(files, key=lambda file: -file[2])[:3]
    parts = ", ".join(f"{amount(size)} {name} in {place}" for place, name, size in largest)
    return (
        f"the run writes {amount(total)} or more ({parts}), but {amount(free)} are free there; make room, or set "
        f"{SCRATCH}, TMPDIR or `dvc cache dir --local` to a larger disk"
    )


def _list_files(run: Run, count: Count) -> Iterator[File]:
    """Yield what the run writes. count: bytes of each stage."""
    main, store = main_worktree(run.root), database(tracking_uri(run.root))
    outputs = run.root if run.in_place else Path(tempfile.gettempdir())
    kinds = {p.model_dump_json(include={"data", "teacher", "encode", "pairs"}): p for p in run.params}
    largest = max((count(params, run) for params in kinds.values()), key=lambda sizes: sum(sizes.values()))
    for stage, size in largest.items():
        if stage in run.stages and size:
            yield outputs, f"of stage {stage}", size * run.at_once
            if run.in_place or stage == "train":  # DVC's cache may hold the other outputs of a variant
                yield _existing(find_cache(main)), f"of stage {stage}", size
    if "train" in run.stages and "train" in largest:
        yield _existing(run.scratch), "of checkpoints", 2 * _checkpoint_bytes(run.params[0], largest["train"])
        if run.registers and store is not None:
            yield _existing(store.parent), "of the registered model", largest["train"]


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _checkpoint_bytes(params: Params, weights: int) -> int:
    """Bytes of a state of stage `train`: generator, critic, averages, the best so far, and AdamW's moments."""
    cfg = params.train
    return 0 if cfg.lora_rank or cfg.lora_rank_critic else (3 + len(cfg.ema_half_lives) + MOMENTS) * weights


def _bound_bytes(params: Params, run: Run) -> dict[str, int]:
    """The most bytes that each stage writes, without a look into the networks; empty if there is no such bound."""
    folder = run.root / params.teacher.folder
    if params.teacher.source != "folder" or not folder.is_dir():
        return {}
    sizes = _data_bytes(params, run)
    weights = MOST_WIDENED * sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    of_an_image = MOST_LATENTS * FLOAT * params.data.channels * params.data.size**2
    images = sizes["data"] * MOST_LATENTS * FLOAT
    return {
        **sizes,
        "encode": images,
        "pairs": params.pairs.count * 2 * of_an_image,
        "teacher": weights,
        "train": weights,
    }


def _data_bytes(params: Params, run: Run) -> dict[str, int]:
    from flows.plan.images import count_images

    return {"data": (count_images(params, run.root) or 0) * params.data.channels * params.data.size**2}


def _count_bytes(params: Params, run: Run) -> dict[str, int]:
    """Bytes that each stage writes; stages whose output depends on files that are not read yet are left out."""
    sizes = _data_bytes(params, run)
    if run.stages <= sizes.keys():
        return sizes
    import torch  # these take seconds

    from dmd.codecs.latents import Latents
    from dmd.encoding.encode import TYPES
    from flows.plan.memory import pairs_bytes
    from flows.plan.network_config import blank_teacher, teacher_configs

    try:
        teacher = blank_teacher(params, teacher_configs(params, run.root, run.preset), torch.device("meta"))
    except Exception:  # a teacher that is fetched later, or one that its stage refuses with a reason
        return sizes
    weights = FLOAT * sum(p.numel() for p in teacher.denoiser.parameters())
    if isinstance(teacher.codec, Latents):
        latent = torch.Size(teacher.shape).numel() * TYPES[params.encode.precision].itemsize
        sizes["encode"] = sizes["data"] // (params.data.channels * params.data.size**2) * latent
    return {**sizes, "pairs": pairs_bytes(teacher, params), "teacher": weights, "train": weights}
