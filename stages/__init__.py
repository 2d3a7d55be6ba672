"""The command line of each DVC stage: parse, load, call one function, write."""
