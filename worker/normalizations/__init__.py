"""The normalization layers, built from the `normalization` of a spec.

Imports `gn`, `worker.distributed` and `worker.spec`.
"""
