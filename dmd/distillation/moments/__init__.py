"""Losses on features of generated and training images. Evaluation shares no code with them, so it stays independent."""
