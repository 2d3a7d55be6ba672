"""Numbers of an estimate as text, with no more digits than they deserve."""

DIGITS = 2  # of an estimate
EXACT_DIGITS = 3  # of a size that follows from shapes


def amount(size: float, digits: int = EXACT_DIGITS) -> str:
    """Bytes in the unit that suits them."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1000:
            break
        size, unit = size / 1024, larger
    return f"{rounded(size, digits)} {unit}"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for unit, length in (("years", 365.25 * 86400), ("days", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * length:
            return f"{rounded(seconds / length)} {unit}"
    return f"{rounded(1000 * seconds)} ms"


def rounded(value: float, digits: int = DIGITS) -> str:
    """Round to a number of significant digits, without an exponent for large numbers."""
    value = float(f"{value:.{digits}g}")
    return f"{value:,.0f}" if value >= 10 ** (digits - 1) else f"{value:g}"
