"""Finds scratch, cache objects and model versions that nothing refers to: the command `python -m flows.clean`."""
