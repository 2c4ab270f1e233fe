"""Experiments: grids of jobs, and the analysis of their results.

Pure functions of their arguments: no module here imports the database, HTTP, FastAPI or Ray.
"""
