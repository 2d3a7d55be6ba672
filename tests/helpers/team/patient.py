"""A command that waits for SIGTERM or SIGUSR1 and then ends with exit code 75; started again, it ends at once.

Its argument is a file by which it knows that it has run before.
"""

import signal
import sys
import time
from pathlib import Path


def main(mark: Path) -> None:
    """Wait, or end if `mark` exists."""
    if mark.exists():
        print("continues", flush=True)
        return

    def stop(_number: int, _frame: object) -> None:
        mark.touch()
        sys.exit(75)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    print("waits", flush=True)
    while True:
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
