"""The `python -m flows.services up|down` command."""

import sys

from flows.services.servers import main

if __name__ == "__main__":
    sys.exit(main())
