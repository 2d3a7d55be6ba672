"""The page of `python -m flows.playground`."""
