"""Memory layouts and dtypes of results."""

import torch
from torch import Tensor

__all__ = ["channels_innermost", "dense", "like", "parameter_dtype", "statistics_dtype"]


def channels_innermost(x: Tensor) -> bool:
    """Return whether `x`, (N, C, *), is channels-last: dense, with the channels innermost, for any number of dims."""
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """Return `x`, (N, C, *), if it is contiguous or channels-last, else a contiguous copy."""
    return x if x.is_contiguous() or channels_innermost(x) else x.contiguous()


def like(tensor: Tensor, x: Tensor) -> Tensor:
    """Return `tensor` in the memory layout of `x`, copied only if its strides differ.

    Args:
        tensor: Of the shape of `x`, in any layout and dtype.
        x: (N, C, *), contiguous or channels-last.
    """
    if tensor.stride() == x.stride():
        return tensor
    if x.is_contiguous():
        return tensor.contiguous()
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


def parameter_dtype(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> torch.dtype:
    """Return the dtype of the gradients of `weight` and `bias`: theirs, or that of the statistics without them."""
    parameter = bias if weight is None else weight
    return statistics_dtype(x) if parameter is None else parameter.dtype


def statistics_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of the statistics of `x`: float32 for bfloat16 and float16, else the dtype of `x`."""
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype
