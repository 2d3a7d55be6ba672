"""Signs that a training goes wrong, and the roll-back to a checkpoint before it."""
