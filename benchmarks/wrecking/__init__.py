"""Faults for `python -m benchmarks.chaos`, the runs that they are put into, and the checks afterwards."""
