"""The CUDA backend: Triton kernels for both memory layouts, forward and backward."""
