"""Names of the feature extractors that every run has; this module imports no torch."""

EVALUATOR, CLASSIFIER = "evaluator", "classifier"
