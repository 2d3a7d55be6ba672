"""Searches of parameters by Optuna: the command `python -m flows.search` and the flow `search`."""
