"""The `python -m flows.services up|down` command."""

import sys

from flows.services.servers import main

sys.exit(main())
