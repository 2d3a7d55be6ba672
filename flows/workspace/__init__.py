"""The requests that a run makes of DVC: its graph, the reproduction of a stage, and its lock file."""
