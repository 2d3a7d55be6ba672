"""Bugs that are planted one at a time in a copy of the project: `python -m tests.planted`."""
