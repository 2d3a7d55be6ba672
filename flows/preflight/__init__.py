"""Checks that a run makes before its first stage, for all that its last step needs. Each mistake is one line."""
