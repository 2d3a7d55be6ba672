"""The names that `from dmd import ...` offers, and a distillation in memory."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import dmd
from dmd import Distillation, Params, Teacher, load_generator, load_params, load_split, load_teacher
from dmd.distillation.run import distill
from dmd.distillation.selection import Validation
from dmd.distillation.setup import new_method, new_networks
from dmd.encoding.encoded import Encoded
from dmd.errors import ConfigError
from dmd.storage.checkpoint import Scratch
from dmd.teachers.pairs import collect_pairs, make_pairs
from tests.helpers.networks import CPU
from tests.helpers.projects import ROOT, environment
from tests.helpers.training import alone

SHORT = {
    "pairs.count": 12,
    "pairs.steps": 2,
    "train.warm_start": {"turns": 2, "batch_size": 4, "lr": 1e-3, "critic_turns": 1},
    "train.generator_turns": 2,
    "train.batch_size": 4,
    "train.generator_batch_size": 4,
    "train.ema_half_lives": [20],
    "method.critic_turns": 2,
}


@pytest.fixture(scope="module")
def short() -> Params:
    return load_params(ROOT / "params.yaml", SHORT)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, dmd; assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)


def test_the_contract_needs_torch_alone() -> None:
    slow = "{'diffusers', 'transformers', 'peft', 'accelerate', 'torch._dynamo'}"
    code = f"import sys, dmd.diffusion.denoiser; assert not {slow} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True)


def test_the_stub_imports_the_names_that_the_package_offers() -> None:
    imports = [n for n in ast.parse((ROOT / "dmd/__init__.pyi").read_text()).body if isinstance(n, ast.ImportFrom)]
    assert {alias.asname: node.module for node in imports for alias in node.names} == dmd.NAMES
    assert all(getattr(dmd, name) is getattr(import_module(where), name) for name, where in dmd.NAMES.items())
    assert set(dmd.NAMES) <= set(dir(dmd)) and not hasattr(dmd, "load_nothing")


def test_there_are_a_dozen_names_and_the_page_lists_them() -> None:
    page = (ROOT / "docs/python_api.md").read_text()
    assert len(dmd.NAMES) == 12 and all(f"`{name}`" in page for name in dmd.NAMES)


def test_changes_of_parameters_are_validated() -> None:
    assert load_params(ROOT / "params.yaml", {"train.batch_size": 5}).train.batch_size == 5
    with pytest.raises(ConfigError, match=r"^changes: train\.batchsize: params\.yaml has no such key; did you mean"):
        load_params(ROOT / "params.yaml", {"train.batchsize": 5})
    with pytest.raises(ConfigError, match=r"train\.batch_size"):
        load_params(ROOT / "params.yaml", {"train.batch_size": 0})


def test_the_turns_are_those_of_the_stage(
    short: Params, teacher: Teacher, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMD_SCRATCH", str(tmp_path))
    split = load_split(str(data_folder), "train")
    pairs = collect_pairs(make_pairs(teacher, split.labels, short.pairs, CPU))
    method = new_method(short, teacher, split, Encoded(None, None), pairs, Path("none"))
    nets = new_networks(method, teacher, short.train, "none", CPU)
    validate = lambda generator, turn: Validation([0.0, 0.0], {})  # noqa: E731
    scratch = Scratch("train", {}, {})
    staged = distill(method, nets, short.train, teacher, split.labels, split.conditions, scratch, validate, alone())
    run = Distillation(short, teacher, split, pairs)
    rows = list(run)
    assert [row["turn"] for row in rows] == [1, 2, 3, 4]
    common = [{name: row[name] for name in rows[i]} for i, row in enumerate(staged.rows)]
    assert list(map(str, common)) == list(map(str, rows))  # as text, since some numbers are NaN
    labels = [0, 1, 2]
    average = run.generator(20).sampler().draw(labels)
    assert average.equal(staged.generator.sampler().draw(labels))
    assert not average.equal(run.generator().sampler().draw(labels))


def test_pairs_are_made_without_data_and_conditions_cover_every_class(short: Params, teacher: Teacher) -> None:
    run = Distillation(short, teacher)
    assert run.method.pairs.labels is not None and len(run.method.pairs) == 12
    assert run.method.pairs.labels.tolist() == [*range(10), 0, 1]
    assert next(run)["turn"] == 1 and run.generator().classes == tuple("0123456789")
    assert run.state.turn == 1


def test_the_exported_generator_makes_the_same_images(short: Params, teacher_folder: Path, tmp_path: Path) -> None:
    run = Distillation(short, load_teacher(str(teacher_folder)))
    next(run)
    run.export(str(tmp_path / "generator"))
    loaded = load_generator(str(tmp_path / "generator"))
    assert json.loads((tmp_path / "generator/trunks.json").read_text()) == []  # no frozen network taught it
    assert loaded.sampler().draw([3, 4], seed=1).equal(run.generator().sampler().draw([3, 4], seed=1))


def test_a_draw_is_the_images_of_all_batches(teacher: Teacher) -> None:
    sampler, labels = teacher.sampler("ddim_2"), torch.arange(5)
    drawn = sampler.draw(labels, seed=3, batch_size=2)
    assert drawn.equal(torch.cat(list(sampler.batches(labels, 5, 3))))
    assert not drawn.equal(sampler.draw(labels, seed=4))
