"""The CUDA backend, in Triton."""
