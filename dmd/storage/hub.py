"""Download a model from the Hugging Face hub, or find it in the local cache."""

from pathlib import Path

from huggingface_hub import snapshot_download

from dmd.errors import HubError

PATTERNS = ["*.json", "*.txt", "model.safetensors"]  # tokenizer, processor, weights; no pickles


def download_snapshot(hub_id: str, revision: str) -> Path:
    """Return the folder of the snapshot. Raises HubError if neither the hub nor the local cache has it."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=PATTERNS))
    except (OSError, ValueError) as e:
        reason = " ".join(str(e).split())[:200]
        raise HubError(
            f"hub_id {hub_id!r} at {revision!r} could not be fetched and is not in the local cache ({reason}); "
            "check the name and the network, or use a folder"
        ) from e


def is_hub_id(text: str) -> bool:
    """Whether a text has the form owner/name and is no path."""
    return text.count("/") == 1 and not text.startswith((".", "/"))
