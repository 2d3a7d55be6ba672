"""Programs that measure speed; `make bench` runs them."""

import flows  # noqa: F401 - it tells a user of the former benchmarks.keep which module replaces it
