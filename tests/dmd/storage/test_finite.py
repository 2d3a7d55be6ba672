"""NaN and infinite values are named by file and key, wherever they would be read or written."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dmd.encoding.encode import _save
from dmd.errors import NumberError
from dmd.samplers.sampler import Sampler
from dmd.teachers.pairs import load_pairs
from evaluation.metrics.schema import write_model
from evaluation.models.extractors import extract
from tests.helpers.networks import CPU
from tests.helpers.reports import report_metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_an_image_that_is_no_number_does_not_become_bytes(value: float) -> None:
    sampler = Sampler("ddim_10", 10, (1, 2, 2), False, CPU, lambda z, cond: torch.where(z > 0, z, value))
    with pytest.raises(NumberError, match="sampler ddim_10: an image has NaN or infinite values"):
        sampler.images(torch.zeros(4), torch.Generator().manual_seed(0))


def test_features_that_are_no_numbers_name_the_extractor() -> None:
    with pytest.raises(NumberError, match="extractor mine: its features"):
        extract({"mine": lambda images: images.float() / images.float()}, [torch.zeros(2, 3, dtype=torch.uint8)])


def test_latents_beyond_the_stored_precision_are_an_error(tmp_path: Path) -> None:
    """float16 ends at 65,504."""
    large = {"latents": torch.full((1, 2), 1e5)}
    assert _save(large, torch.float32, tmp_path / "a.safetensors").exists()
    with pytest.raises(NumberError, match=r"the teacher's latents as torch.float16 .* set encode.precision to fp32"):
        _save(large, torch.float16, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_pairs_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    x = torch.tensor([1.0, float("inf")]).reshape(2, 1, 1, 1)
    save_file({"z": torch.zeros(2, 1, 1, 1), "x": x}, tmp_path / "pairs.safetensors")
    with pytest.raises(NumberError, match=r"pairs.safetensors: x has NaN or infinite values; run the pairs stage"):
        load_pairs(tmp_path)


def test_a_figure_that_is_no_number_is_named_and_not_written(tmp_path: Path) -> None:
    metrics = report_metrics()
    metrics.student.values("fd")["evaluator"] = float("nan")
    with pytest.raises(NumberError, match=r"metrics.json: student.fd.evaluator is NaN or infinite"):
        write_model(metrics, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()
