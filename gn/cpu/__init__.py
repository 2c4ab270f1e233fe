"""The CPU backend: C++ kernels, compiled on first use for the CPU of this machine."""
