"""Times several works in turns, so that whatever else the machine does affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping

Work = Callable[[], object]


def time_in_turns(
    works: Mapping[str, Work], repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each work in each of `repeats` rounds, after a round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(repeats + 1):
        for name, work in works.items():
            start = clock()
            work()
            if round_number:
                seconds[name].append(clock() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]], digits: int = 5) -> dict[str, float]:
    """The median of each work."""
    return {name: round(statistics.median(values), digits) for name, values in seconds.items()}


def ratios_to(base: str, seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """The median over rounds of each other work's seconds over those of `base`."""
    rounds = {name: [a / b for a, b in zip(own, seconds[base], strict=True)] for name, own in seconds.items()}
    return {name: round(statistics.median(values), 3) for name, values in rounds.items() if name != base}
