"""Upload of a registered generator to the Hugging Face hub: the command `python -m flows.push`."""
