"""The memory layouts and dtypes that results have."""

import torch
from torch import Tensor

__all__ = ["channels_innermost", "dense", "like", "parameter_dtype", "statistics_dtype"]


def channels_innermost(x: Tensor) -> bool:
    """Whether the channels of `x`, (N, C, *), are innermost in memory: torch's channels_last, of any rank."""
    return x.dim() > 2 and not x.is_contiguous() and x.movedim(1, -1).is_contiguous()


def dense(x: Tensor) -> Tensor:
    """`x` itself where it is dense with its positions or its channels innermost, else a contiguous copy."""
    return x if x.is_contiguous() or channels_innermost(x) else x.contiguous()


def like(tensor: Tensor, x: Tensor) -> Tensor:
    """`tensor` in the memory layout of `x`, which is dense."""
    if tensor.stride() == x.stride():
        return tensor
    if x.is_contiguous():
        return tensor.contiguous()
    return torch.empty_like(x, dtype=tensor.dtype).copy_(tensor)


def statistics_dtype(x: Tensor) -> torch.dtype:
    """float32 for half precision, else the dtype of `x`."""
    return torch.float32 if x.dtype in (torch.bfloat16, torch.float16) else x.dtype


def parameter_dtype(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> torch.dtype:
    """That of the parameters, where there are any, else that of the statistics."""
    parameter = weight if weight is not None else bias
    return statistics_dtype(x) if parameter is None else parameter.dtype
