"""Format the sizes, durations and numbers of an estimate with few significant digits."""

DIGITS = 2  # significant digits of an estimate
EXACT_DIGITS = 3  # significant digits of a size that follows from shapes


def amount(size: float, digits: int = EXACT_DIGITS) -> str:
    """Format a number of bytes in the smallest unit that gives less than 1,000."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{rounded(size, digits)} {unit}"


def duration(seconds: float) -> str:
    """Format seconds in the largest unit of which there are at least two."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{rounded(seconds / length)} {unit}"
    return f"{rounded(1000 * seconds)} ms"


def rounded(value: float, digits: int = DIGITS) -> str:
    """Round to a number of significant digits, without an exponent for large numbers."""
    value = float(f"{value:.{digits}g}")
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:g}"
