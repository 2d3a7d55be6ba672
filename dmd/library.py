"""A distillation in memory, for scripts and notebooks: no checkpoints, no validation, no files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dmd.config import NONE, Params
from dmd.data.shards import Images, Shard
from dmd.data.splits import Split
from dmd.distillation.parallel.workers import Workers
from dmd.distillation.records import learned_from
from dmd.distillation.setup import new_generator, new_method, new_networks
from dmd.distillation.state import TrainState
from dmd.distillation.trainer import train
from dmd.encoding.encoded import Encoded
from dmd.generator.export import describe_training, export_generator
from dmd.generator.generator import Generator
from dmd.teachers.pairs import Pairs, collect_pairs, make_pairs
from dmd.teachers.teacher import Teacher


class Distillation(Iterator[dict[str, Any]]):
    """Iterator over the training of a generator: `next` runs one generator turn and the critic turns before it.

    An item is the row of numbers of reports/losses.csv: turn, step, phase, and the losses of each network. The rows
    are those of stage `train` with the same parameters, teacher, data and pairs.
    """

    def __init__(
        self,
        params: Params,
        teacher: Teacher,
        data: Split | None = None,
        pairs: Pairs | None = None,
        latents: Encoded | None = None,
        trunk: Path | str = NONE,
    ) -> None:
        """data: the train split; without it, conditions are drawn uniformly, and the method must need no real images.

        pairs: noise and the teacher's images for the warm start; without them, params.pairs.count are made here.
        latents: output of stage `encode`, for a method that reads real latents. trunk: folder of stage `trunk`. Raises
        ConfigError or TeacherError if the method cannot run on this teacher and these data.
        """
        self.params, self.teacher = params, teacher
        device = next(teacher.denoiser.parameters()).device
        split = _without_images(teacher) if data is None else data
        if pairs is None:
            pairs = collect_pairs(make_pairs(teacher, split.labels, params.pairs, device))
        self.method = new_method(params, teacher, split, latents or Encoded(None, None), pairs.to(device), Path(trunk))
        self.facts = learned_from(self.method, split)
        nets = new_networks(self.method, teacher, params.train, params.method.init_from, device)
        self.classes = split.conditions
        self.state = TrainState(nets, params.train)
        workers = Workers.start(params.train, device, params.runtime.threads_of(params.train))
        labels = split.labels if teacher.conditions else None
        self._rows = train(self.state, self.method, params.train, teacher.shape, labels, workers)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        return next(self._rows)

    def generator(self, half_life: int | None = None) -> Generator:
        """The present generator. half_life: one of train.ema_half_lives, for that moving average of the weights.

        It shares its weights with the training: further turns change it.
        """
        net = self.state.nets.generator if half_life is None else self.state.average(half_life)
        return new_generator(net, self.method, self.teacher, self.classes)

    def export(self, folder: Path | str, half_life: int | None = None) -> None:
        """Write the present generator as a diffusers folder. Arguments are those of `generator`."""
        cfg = self.params
        words = describe_training(cfg.method, cfg.train)
        generator, adapter = self.generator(half_life), cfg.train.lora_adapter
        export_generator(generator, self.teacher, Path(folder), adapter, words, learned_from=self.facts)


def _without_images(teacher: Teacher) -> Split:
    """A split without images, with one label for each class or caption of the teacher."""
    captions = teacher.captions
    # The last label of a network with classes is the null label.
    names = () if captions else tuple(str(i) for i in range(max(teacher.conditions - 1, 1)))
    shape = teacher.codec.image_shape(teacher.shape)
    images = Images([Shard(Path(NONE), 0, (0, *shape), torch.uint8)])
    labels: Tensor = torch.arange(len(captions or names))
    return Split(images, labels, list(captions or names), names, captions or names)
