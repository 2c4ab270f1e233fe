"""Experiments: a grid of jobs, and what its results say.

Pure functions of their arguments: no module here imports the database, HTTP, FastAPI or Ray.
"""
