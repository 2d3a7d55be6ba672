"""Names of the feature extractors that the evaluator stage writes; this module imports no torch."""

EVALUATOR, CLASSIFIER = "evaluator", "classifier"


def list_selecting(has_classes: bool) -> tuple[str, ...]:
    """Names of the extractors whose validation picks the generator; without classes, the classifier is not trained."""
    return (CLASSIFIER, EVALUATOR) if has_classes else (EVALUATOR,)
