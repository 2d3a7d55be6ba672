"""Damaged inputs for `python -m benchmarks.fuzz`, and the code of the project that reads them."""
