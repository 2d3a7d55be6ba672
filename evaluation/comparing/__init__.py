"""Comparison of several generators by the same measures, labels and noise."""
