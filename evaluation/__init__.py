"""One evaluator for teacher and student: features, distances, CLIP score, latency, and the report."""
