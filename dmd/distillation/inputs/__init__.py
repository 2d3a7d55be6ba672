"""Inputs of a turn: batches of training images and teacher pairs, and images that are read ahead."""
