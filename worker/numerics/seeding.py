"""Random number generators that depend on the seed of a job and on nothing else."""

import hashlib

import torch


def generator(*key: object) -> torch.Generator:
    """Return a CPU generator whose numbers are a function of `key` alone.

    Args:
        key: The seed of the job and what the numbers are for, as in `generator(7, "order", 1)`.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
