"""Distribution Matching Distillation: turns a diffusion teacher into a one-step generator.

Read it in this order: processes -> denoisers -> losses -> methods -> trainer -> export.
The package depends on torch and diffusers, but not on DVC, Prefect or MLflow.
"""
