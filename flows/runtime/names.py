"""Names for other tools, made from words of a user: names of files, of rows and of classes."""

import hashlib
import re

LENGTH = 60  # characters of a name; a git reference is the name of a file, which may have 255 bytes


def make_identifier(word: str) -> str:
    """Return a name of ASCII letters, digits, "_" and "-" that git, DVC, Prefect and MLflow accept.

    A word that is such a name stays as it is. Another one gets a hash, which keeps different words apart.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", word)[:LENGTH].strip("-_")
    if safe and safe == word:
        return word
    digest = hashlib.sha256(word.encode(errors="surrogatepass")).hexdigest()[:6]
    return f"{safe}_{digest}" if safe else digest


def make_artifact_key(*words: str) -> str:
    """Return the key of an artifact of Prefect: lower-case letters and digits, with single dashes between them."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(map(make_identifier, words)).lower()).strip("-")
