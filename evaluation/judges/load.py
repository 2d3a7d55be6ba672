"""Finds and loads the judges that params name. One without weights on this machine is skipped, with a reason."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import snapshot_download

from dmd.config import BESIDE, NONE, ExtractorsConfig, JudgeSource
from dmd.errors import EvaluatorError, HubError, UserError
from dmd.storage.files import sha256
from dmd.storage.finite import check_finite
from dmd.storage.hub import is_hub_id
from evaluation.judges.base import Judge
from evaluation.judges.clip_judges import load_hps, load_pick_score
from evaluation.judges.image_reward import load_image_reward
from evaluation.judges.vqa import load_vqa
from evaluation.metrics.schema import JudgeFacts

PROCESSOR_FILES = ("*.json", "*.txt")
FOLDER_FILES = (*PROCESSOR_FILES, "*.safetensors")
EXAMPLE = "two red balls"  # caption of the image that a judge must be able to judge when it is loaded


class JudgeLoader(Protocol):
    """Load a judge from the path of its weights and the folder of its tokenizer and image processor."""

    def __call__(self, weights: Path, processor: Path, device: torch.device, /) -> Judge: ...


@dataclass(frozen=True)
class JudgeKind:
    """How a judge is loaded, and the family of its network, as of the trunks of discriminators."""

    load: JudgeLoader
    family: str
    file: str = ""  # the file of the weights in a folder or on the hub; empty if the whole folder is the network


JUDGES: dict[str, JudgeKind] = {
    "pick_score": JudgeKind(load_pick_score, "clip"),
    "hps": JudgeKind(load_hps, "clip", "HPS_v2.1_compressed.pt"),
    "image_reward": JudgeKind(load_image_reward, "blip", "ImageReward.pt"),
    "vqa": JudgeKind(load_vqa, "blip"),
}


@dataclass(frozen=True)
class LoadedJudge:
    """A judge and its identity."""

    judge: Judge
    facts: JudgeFacts


def load_judges(cfg: ExtractorsConfig, device: torch.device) -> tuple[dict[str, LoadedJudge], dict[str, str]]:
    """Load the judges that params name. Returns judges by name, and reasons by the name of each skipped judge.

    Raises EvaluatorError if a file is damaged or its sha256 differs from that in params.
    """
    judges, skipped = {}, {}
    for name, kind in JUDGES.items():
        source: JudgeSource = getattr(cfg, name)
        if source.weights == NONE:
            continue
        try:
            weights = find_source(source.weights, (kind.file, *PROCESSOR_FILES) if kind.file else FOLDER_FILES)
            beside = weights if weights.is_dir() else weights.parent
            processor = beside if source.processor == BESIDE else find_source(source.processor, PROCESSOR_FILES)
        except UserError as e:
            skipped[name] = str(e)
            continue
        weights = weights / kind.file if kind.file and weights.is_dir() else weights
        judges[name] = _load(name, kind, weights, processor, source.sha256, device)
    return judges, skipped


def find_source(source: str, patterns: Sequence[str]) -> Path:
    """Path of a source: a path, or owner/name or owner/name@revision on the hub, of which only `patterns` are fetched.

    Raises HubError if there is none.
    """
    if Path(source).exists():
        return Path(source)
    if not is_hub_id(source):
        raise HubError(f"{source} does not exist")
    hub_id, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(hub_id, revision=revision or "main", allow_patterns=list(patterns)))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise HubError(f"{source} could not be fetched and is not in the local cache ({reason})") from e


def _load(
    name: str, kind: JudgeKind, weights: Path, processor: Path, expected: str, device: torch.device
) -> LoadedJudge:
    if not weights.exists():
        raise EvaluatorError(f"extractors.{name}: {weights} does not exist; give the file of the weights")
    digest = sha256(weights)
    if expected not in ("any", digest):
        raise EvaluatorError(f"extractors.{name}: {weights} has sha256 {digest}, not {expected}; fetch it again")
    try:
        judge = kind.load(weights, processor, device)
        judgements = judge(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), [EXAMPLE])  # wrong weights fail here
        check_finite(judgements, "the judgement of a black image", "its weights are no numbers")
    except Exception as e:  # torch, transformers and safetensors each raise exceptions of their own
        reason = " ".join(str(e).split())[:200]
        raise EvaluatorError(
            f"extractors.{name}: {weights}, with the processor of {processor}, is damaged or holds another network; "
            f"replace it ({reason})"
        ) from e
    return LoadedJudge(judge, JudgeFacts(sha256=digest, processor=hash_files(processor, PROCESSOR_FILES)))


def hash_files(folder: Path, patterns: Sequence[str]) -> str:
    """sha256 of the names and contents of the files of a folder that have these patterns; others may come and go."""
    files = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    return hashlib.sha256("\n".join(f"{file.name} {sha256(file)}" for file in files).encode()).hexdigest()
