"""Download a model from the Hugging Face hub, or find it in the local cache."""

from pathlib import Path

from huggingface_hub import snapshot_download

from dmd.errors import EvaluatorError

PATTERNS = ["*.json", "*.txt", "model.safetensors"]  # tokenizer, processor, weights; no pickles


def download_snapshot(hub_id: str, revision: str) -> Path:
    """Return the folder of the snapshot. Raises EvaluatorError if neither the hub nor the local cache has it."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise EvaluatorError(
            f"hub_id {hub_id!r} at {revision!r} could not be fetched and is not in the local cache ({reason}); "
            "check the name and the network, or use source: folder"
        ) from e
