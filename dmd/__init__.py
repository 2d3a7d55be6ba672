"""Distribution Matching Distillation: a diffusion teacher becomes a one-step generator.

Reads top to bottom as: processes -> denoisers -> losses -> methods -> trainer -> export.
Knows torch and diffusers; knows neither DVC, Prefect nor MLflow.
"""
