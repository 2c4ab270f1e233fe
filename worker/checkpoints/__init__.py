"""Checkpoints: capturing and restoring a training, and exporting weights to other libraries.

Imports `worker.models` and the light modules.
"""
