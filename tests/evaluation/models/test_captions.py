"""A judge has room for the captions of the data, or says how many it cuts or cannot tell apart."""

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerBase

from dmd.config import Params
from dmd.data.splits import Split
from dmd.storage.checkpoint import Scratch
from dmd.training.tokenizer import new_tokenizer
from evaluation.models.build import build_evaluator
from evaluation.models.captions import CaptionReading, longest_caption, read_captions
from evaluation.models.clip import load_clip
from tests.helpers.networks import CPU
from tests.helpers.params import with_values

START = "a photograph of a small grey bird that sits on the lowest branch of an old tree in the garden of a house, "


@pytest.fixture
def tokenizer(tmp_path: Path) -> PreTrainedTokenizerBase:
    return new_tokenizer(tmp_path, 77)


def splits(captions: list[str]) -> dict[str, Split]:
    """Three splits of random images whose captions are `captions`, the last one in the test split alone."""
    rng = torch.Generator().manual_seed(0)

    def new(chosen: list[str]) -> Split:
        images = torch.randint(256, (len(chosen), 1, 8, 8), generator=rng, dtype=torch.uint8)
        return Split(images, torch.arange(len(chosen)), chosen, (), tuple(captions[:-1]))

    return {"train": new(captions[:-1] * 3), "validation": new(captions[:-1]), "test": new(captions[-1:])}


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["a cat", "a dog"], (2, 77, 0, 0)),
        (["x" * 75, "y" * 75], (2, 77, 0, 0)),  # with the start and end tokens: 77
        (["x" * 76, "x" * 75], (2, 77, 1, 0)),  # the last letter of a word has a token of its own
        (["x" * 76, "x" * 77], (2, 77, 2, 2)),
        ([START + str(i) for i in range(13)], (13, 77, 13, 13)),
        ([str(i) + START for i in range(13)], (13, 77, 13, 0)),
        (["é" * 37, "é" * 38], (2, 77, 1, 0)),  # two bytes each
        (["A Cat", "a cat", "a dog"], (3, 77, 0, 2)),  # CLIP reads lower case
    ],
)
def test_captions_that_are_cut_or_read_alike_are_counted(
    tokenizer: PreTrainedTokenizerBase, captions: list[str], expected: tuple[int, ...]
) -> None:
    assert read_captions(tokenizer, captions) == CaptionReading(*expected)
    whole = tokenizer(captions, truncation=True, padding=True)["input_ids"]
    alike = len(whole) - sum(whole.count(row) == 1 for row in whole)
    assert alike == expected[-1]  # by the tokenizer itself


def test_a_judge_that_is_trained_here_has_room_for_the_longest_caption(
    params: Params, tmp_path: Path, scratch: Scratch
) -> None:
    cfg = with_values(params, evaluator={"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1}).evaluator
    captions = [START + str(i) for i in range(13)] + [START * 3]
    line = build_evaluator(cfg, splits(captions), tmp_path, CPU, scratch)
    clip = load_clip(tmp_path / "clip", CPU)
    assert clip.tokenizer.model_max_length == 3 * len(START.replace(" ", "")) + 2  # spaces take no token
    embeds = clip.caption_features(captions)
    assert (torch.cdist(embeds, embeds) > 0).sum() == 14 * 13 and "captions" not in line


def test_short_captions_leave_the_judge_as_it_was(params: Params, tmp_path: Path, scratch: Scratch) -> None:
    tokens = longest_caption(new_tokenizer(tmp_path, 77), ["a handwritten zero", "a handwritten three"])
    cfg = with_values(params, evaluator={"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1}).evaluator
    build_evaluator(
        cfg, splits(["a handwritten zero", "a handwritten three", "a handwritten one"]), tmp_path, CPU, scratch
    )
    clip = load_clip(tmp_path / "clip", CPU)
    assert tokens < 77 == clip.tokenizer.model_max_length == clip.model.text_model.config.max_position_embeddings


def test_captions_beyond_the_bound_are_counted_in_the_line(params: Params, tmp_path: Path, scratch: Scratch) -> None:
    changes = {"steps": 1, "hidden_size": 16, "layers": 1, "classifier_steps": 1, "max_tokens": 77}
    cfg = with_values(params, evaluator=changes).evaluator
    line = build_evaluator(cfg, splits([START * 2 + str(i) for i in range(13)]), tmp_path, CPU, scratch)
    assert "13 of 13 captions are cut at the 77 tokens that CLIP reads" in line
    assert "warning: CLIP reads 13 of 13 different captions as the same text as another" in line


@pytest.mark.parametrize("own_length", [True, False])
def test_a_judge_from_a_folder_says_what_it_cuts(
    params: Params, tmp_path: Path, scratch: Scratch, own_length: bool
) -> None:
    """A tokenizer without a length of its own gets that of the model."""
    folder = tmp_path / "clip"
    folder.mkdir()
    tokenizer = new_tokenizer(folder, 20 if own_length else 10**30)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(tokenizer)}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8, "patch_size": 4}
    config = CLIPConfig(text_config={**text, "max_position_embeddings": 20}, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8).save_pretrained(folder)
    changes = {"source": "folder", "folder": str(folder), "classifier_steps": 1}
    cfg = with_values(params, evaluator=changes).evaluator
    (tmp_path / "out").mkdir()
    line = build_evaluator(
        cfg, splits([f"a handwritten digit, number {i}" for i in range(5)]), tmp_path / "out", CPU, scratch
    )
    assert "5 of 5 captions are cut at the 20 tokens" in line and "5 of 5 different captions as the same text" in line
