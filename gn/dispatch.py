"""Whether a call may read the memory of its tensors directly, without torch's dispatcher.

`extension.cpp` states the same rule in C++. The dispatcher materializes, unwraps, records or rejects everything else.
"""

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["PLAIN_TYPES", "is_intercepted", "is_plain", "is_traced"]

PLAIN_TYPES = {Tensor, nn.Parameter, type(None)}
"""The types of arguments that hide no behaviour of a subclass."""


def is_intercepted() -> bool:
    """Return whether a compiler, a tracer or a dispatch mode must see the operators that are called."""
    return torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None or is_traced()


def is_traced() -> bool:
    """Return whether `torch.jit.trace` records the operators that are called, and what is done with shapes."""
    return torch._C._get_tracing_state() is not None


def is_plain(*tensors: Tensor | None) -> bool:
    """Return whether every tensor that is given is dense, strided, materialized memory of a CPU or CUDA device.

    Subclasses, zero tensors, views that are conjugated or negated lazily, functional wrappers, fake tensors and tensors
    of other layouts are not plain. Their dispatch keys show it: a plain tensor has only those of its device.
    """
    for tensor in tensors:
        if tensor is not None and (
            type(tensor) not in PLAIN_TYPES or _dispatch_keys(tensor).raw_repr() not in _PLAIN_KEYS
        ):
            return False
    return True


_dispatch_keys = torch._C._dispatch_keys


def _key_sets(device: str) -> tuple[int, int]:
    """The dispatch keys of an ordinary tensor, and of one that was created in inference mode."""
    key = torch._C.DispatchKey
    inference = torch._C.DispatchKeySet(getattr(key, device)).add(getattr(key, f"Autocast{device}"))
    ordinary = inference.add(key.ADInplaceOrView).add(getattr(key, f"Autograd{device}"))
    return inference.raw_repr(), ordinary.raw_repr()


_PLAIN_KEYS = frozenset((*_key_sets("CPU"), *_key_sets("CUDA")))
