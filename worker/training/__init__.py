"""The training loop, its optimizer, its evaluation, and the telemetry of the normalization layers.

Imports every package below it: checkpoints, models, normalizations, distributed, data, numerics.
"""
