"""The CUDA backend: Triton kernels for both layouts, forward and backward."""
