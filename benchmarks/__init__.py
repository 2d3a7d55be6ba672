"""Programs that measure speed, memory and cost, and that look for faults; benchmarks/README.md lists them."""

import flows  # noqa: F401 - it tells a user of the former benchmarks.keep which module replaces it
