"""The marks of extractors and judges that are not independent of the training."""

from collections.abc import Collection

SEEN, SELECTS = "seen in training", "selects"  # in tables, pages and tags


def format_mark(judge: str, seen: Collection[str], selects: Collection[str]) -> str:
    """Text of the marks of an extractor or judge, such as " (selects)"; empty without a mark."""
    marks = [text for text, names in ((SEEN, seen), (SELECTS, selects)) if judge in names]
    return f" ({', '.join(marks)})" if marks else ""
