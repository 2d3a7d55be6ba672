"""Programs that measure speed; `make bench` runs them."""

import flows  # noqa: F401 - names the new module to a user of `python -m benchmarks.keep`
