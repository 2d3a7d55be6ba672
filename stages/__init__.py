"""The command line of each DVC stage: parse, load, call one function, write."""

import os

# OpenMP threads that wait should sleep: spinning ones make a busy machine many times slower. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
