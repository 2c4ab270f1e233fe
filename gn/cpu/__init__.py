"""The CPU backend: C++ kernels, compiled on first use for the machine they run on."""
