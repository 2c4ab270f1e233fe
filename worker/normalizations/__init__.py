"""The normalizations, one module each: the fields of a specification, the formula, and the paper.

Imports `worker.validation`, and only pydantic besides the standard library, because the service reads specifications
without torch. `worker.normalizations.layers` is the exception: it builds the layers, and imports torch and `gn`.
"""
