"""Checkpoints: what is saved of a training, how it is restored, and its export to other libraries."""
