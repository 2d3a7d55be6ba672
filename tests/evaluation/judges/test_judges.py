"""Judges read their hubs' formats, score as a computation apart from them does, and prefer a matching caption."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPModel

from dmd.config import BESIDE, ExtractorsConfig, Params
from dmd.errors import EvaluatorError
from dmd.storage.files import sha256
from evaluation.judges.image_reward import load_image_reward
from evaluation.judges.load import JUDGES, load_judges
from tests.helpers.judges.answers import vqa_folder
from tests.helpers.judges.clips import CAPTIONS, clip_processor, hps_file, pick_score_folder, pictures, prepared
from tests.helpers.judges.rewards import MEAN, STD, reward_file, rewards

CPU = torch.device("cpu")
SHUFFLED = CAPTIONS[::-1]


def config(params: Params, processor: str = BESIDE, sha: str = "any", **weights: Path | str) -> ExtractorsConfig:
    """Extractors of the default run with the weights of these judges."""
    values = {"processor": processor, "sha256": sha}
    sources = {
        name: getattr(params.extractors, name).model_copy(update={**values, "weights": str(path)})
        for name, path in weights.items()
    }
    return params.extractors.model_copy(update=sources)


def load(params: Params, **weights: Path) -> Any:
    """The judge with these weights."""
    judges, skipped = load_judges(config(params, **weights), CPU)
    assert list(judges) == list(weights) and not skipped
    return judges[next(iter(weights))].judge


def build(name: str, folder: Path, knows: bool = True) -> Path:
    """The tiny network of a judge in the format of its hub."""
    match name:
        case "pick_score":
            return pick_score_folder(folder, knows)
        case "hps":
            return hps_file(folder, knows)[0]
        case "image_reward":
            return reward_file(folder, knows)[0]
        case _:
            return vqa_folder(folder, knows)


def test_without_weights_nothing_is_loaded(params: Params) -> None:
    assert load_judges(params.extractors, CPU) == ({}, {})


@pytest.mark.parametrize(
    ("name", "match", "other"),
    [
        ("pick_score", 14.285714, 0.0),  # the scale of a new CLIP, 1 / 0.07
        ("hps", 100.0, 0.0),
        ("image_reward", (1 - MEAN) / STD, (-1 - MEAN) / STD),
    ],
)
def test_a_matching_caption_ranks_above_a_shuffled_one(
    params: Params, tmp_path: Path, name: str, match: float, other: float
) -> None:
    """The weights are set so that both scores are known."""
    judge = load(params, **{name: build(name, tmp_path / "judge")})
    assert judge(pictures(), CAPTIONS)[:, 0].tolist() == pytest.approx([match] * 2, abs=0.02)
    assert judge(pictures(), SHUFFLED)[:, 0].tolist() == pytest.approx([other] * 2, abs=0.02)


def test_answers_that_the_prompt_gives_are_counted(params: Params, tmp_path: Path) -> None:
    """The network answers 2 and red for one image, 3 and blue for the other."""
    judge = load(params, vqa=vqa_folder(tmp_path / "judge"))
    right = judge(pictures(), ["two red balls", "three blue balls"])
    half = judge(pictures(), ["two blue balls", "three balls"])
    assert right.tolist() == [[2, 2], [2, 2]] and half.tolist() == [[1, 2], [1, 1]]
    assert judge(pictures(), ["three blue balls", "two red balls"]).tolist() == [[0, 2], [0, 2]]
    assert judge(pictures(), ["a ball", "a cube"]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name", JUDGES)
def test_a_random_network_in_its_hubs_format_is_a_judge(params: Params, tmp_path: Path, name: str) -> None:
    """Also of grey images of another size; and the score of an image does not depend on its batch."""
    judge = load(params, **{name: build(name, tmp_path / "judge", knows=False)})
    images = torch.randint(256, (19, 1, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    captions = ["two red balls", "three cats", "ten dogs"] * 6 + ["a cat"]  # questions of different lengths
    scores = judge(images, captions)
    assert scores.shape == (19, 2 if name == "vqa" else 1) and scores.isfinite().all()
    alone = torch.cat([judge(images[i : i + 1], captions[i : i + 1]) for i in (0, 5, 18)])
    torch.testing.assert_close(scores[[0, 5, 18]], alone, rtol=1e-4, atol=1e-4)


def test_pick_score_is_the_logit_of_transformers(params: Params, tmp_path: Path) -> None:
    folder = pick_score_folder(tmp_path / "judge", knows=False)
    model, tokens = CLIPModel.from_pretrained(folder), clip_processor(tmp_path / "tokens")
    with torch.no_grad():
        inputs = tokens(CAPTIONS, padding=True, return_tensors="pt")
        logits = model(pixel_values=prepared(pictures()), **inputs).logits_per_image  # type: ignore[operator]
    score = load(params, pick_score=folder)
    torch.testing.assert_close(score(pictures(), CAPTIONS)[:, 0], logits.diagonal(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score(pictures(), SHUFFLED)[:, 0], logits.flip(1).diagonal(), rtol=1e-4, atol=1e-4)


def test_hps_is_the_cosine_of_open_clip(params: Params, tmp_path: Path) -> None:
    file, net = hps_file(tmp_path / "judge", knows=False)
    ids = clip_processor(tmp_path / "tokens")(CAPTIONS, padding=True, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = 100 * net.cosines(prepared(pictures()), ids)
    torch.testing.assert_close(load(params, hps=file)(pictures(), CAPTIONS)[:, 0], expected, rtol=1e-4, atol=1e-3)
    assert (expected[0] - expected[1]).abs() > 1  # the score depends on the image and its caption


def test_half_precision_and_safetensors_give_the_same(params: Params, tmp_path: Path) -> None:
    """A file of another name is read by its path."""
    file, net = hps_file(tmp_path / "judge")
    expected = load(params, hps=file)(pictures(), CAPTIONS)
    torch.save({"state_dict": net.half().state_dict()}, file)
    torch.testing.assert_close(load(params, hps=file.parent)(pictures(), CAPTIONS), expected, rtol=0.02, atol=0.5)
    save_file({k: v.contiguous() for k, v in net.float().state_dict().items()}, tmp_path / "judge" / "own.safetensors")
    own = load(params, hps=tmp_path / "judge" / "own.safetensors")(pictures(), CAPTIONS)
    torch.testing.assert_close(own, expected, rtol=0.02, atol=0.5)


def test_image_reward_is_that_of_blip(tmp_path: Path) -> None:
    file, weights, tokenizer = reward_file(tmp_path / "judge", knows=False)
    judge = load_image_reward(file, tmp_path / "judge", CPU)
    for captions in (CAPTIONS, SHUFFLED):
        expected = rewards(weights, tokenizer, pictures(), captions)
        torch.testing.assert_close(judge(pictures(), captions)[:, 0], expected, rtol=1e-3, atol=1e-4)


def test_a_judge_without_weights_is_skipped_with_a_line(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    here = pick_score_folder(tmp_path / "here", knows=False)
    cfg = config(params, hps=tmp_path / "missing.pt", vqa="Salesforce/blip-vqa-base@787b3d35")
    cfg = cfg.model_copy(update={"pick_score": config(params, "owner/processor", pick_score=here).pick_score})
    judges, skipped = load_judges(cfg, CPU)
    assert not judges and set(skipped) == {"hps", "vqa", "pick_score"}
    assert "missing.pt does not exist" in skipped["hps"] and "owner/processor" in skipped["pick_score"]
    assert "Salesforce/blip-vqa-base@787b3d35" in skipped["vqa"]
    assert not any("\n" in reason for reason in skipped.values())


@pytest.mark.parametrize("name", JUDGES)
def test_another_network_is_named_in_one_line(params: Params, tmp_path: Path, name: str) -> None:
    """A judge of another kind, a file that is none, and other bytes than params ask for."""
    right = build(name, tmp_path / "right", knows=False)
    wrong = build("hps" if name == "image_reward" else "image_reward", tmp_path / "wrong", knows=False)
    if JUDGES[name].file:
        shutil.copy(wrong, tmp_path / "wrong" / JUDGES[name].file)
    with pytest.raises(EvaluatorError, match=rf"extractors.{name}: .* holds another network; replace it \(.*\)$") as e:
        load_judges(config(params, **{name: tmp_path / "wrong"}), CPU)
    assert "\n" not in str(e.value)
    with pytest.raises(EvaluatorError, match=rf"extractors.{name}: .* has sha256 {sha256(right)}, not 0{{64}}"):
        load_judges(config(params, sha="0" * 64, **{name: right}), CPU)


def test_a_checkpoint_with_a_payload_does_not_run(params: Params, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    clip_processor(tmp_path / "judge")
    file = tmp_path / "judge" / "HPS_v2.1_compressed.pt"
    torch.save({"state_dict": Payload()}, file)
    with pytest.raises(EvaluatorError, match="is damaged or holds another network"):
        load_judges(config(params, hps=file), CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("ln_final.bias"), "no weight text_model.final_layer_norm.bias"),
        (lambda w: w.update(more=torch.zeros(1)), "an unknown weight more"),
        (lambda w: w.update(logit_scale=torch.tensor(torch.nan)), "logit_scale has NaN"),
        (lambda w: w.update(text_projection=torch.zeros(32, 7)), r"text_projection.weight has shape \[7, 32\]"),
    ],
)
def test_a_checkpoint_with_other_weights_is_refused(params: Params, tmp_path: Path, change: Any, message: str) -> None:
    file, net = hps_file(tmp_path / "judge")
    weights = dict(net.state_dict())
    change(weights)
    torch.save({"state_dict": weights}, file)
    with pytest.raises(EvaluatorError, match=message):
        load_judges(config(params, hps=file), CPU)
