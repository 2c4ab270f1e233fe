"""The process group of a job with several workers: rendezvous, collectives, gradient averaging.

Imports nothing else of `worker`; `rank` does not import torch.
"""
