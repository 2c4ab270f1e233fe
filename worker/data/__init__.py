"""The images: CIFAR-10 and a synthetic dataset, as memory-mapped files and as batches of tensors.

Imports `worker.numerics` and the light modules. `datasets` and `mapped_files` do not import torch.
"""
