"""Fetch an evaluator from the hub, or find it in the local cache."""

from pathlib import Path

from huggingface_hub import snapshot_download

from dmd.errors import EvaluatorError

WANTED = ["*.json", "*.txt", "model.safetensors"]  # tokenizer, processor, weights; no pickles


def download_snapshot(hub_id: str, revision: str) -> Path:
    """Returns the folder of the snapshot. Raises EvaluatorError if it is neither reachable nor cached."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=WANTED))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise EvaluatorError(
            f"hub_id {hub_id!r} at {revision!r} could not be fetched and is not in the local cache ({reason}); "
            "check the name and the network, or use source: folder"
        ) from e
