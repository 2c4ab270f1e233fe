"""Number formats, memory format, determinism and random numbers: what the bits of a result depend on.

Imports `worker.spec`, and of the other packages none.
"""
