"""The training loop, its optimizer, its evaluation, and the telemetry of the layers and the gradient.

Imports every package below it: checkpoints, models, normalizations, distributed, data, numerics.
"""
