"""The CUDA backend: launches the Triton kernels on the device of the tensors."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from gn import reference
from gn.call import Call, Gradients, Result
from gn.cuda.launches import backward_launches, forward_launches
from gn.cuda.tiling import Shape

__all__ = ["backward", "forward"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _on_its_device(launch: Callable[Concatenate[Call, _P], _R]) -> Callable[Concatenate[Call, _P], _R]:
    """Triton launches on the current device, which may be another than that of the tensors."""

    @wraps(launch)
    def run(call: Call, /, *arguments: _P.args, **options: _P.kwargs) -> _R:
        with torch.cuda.device(call.x.get_device()):
            return launch(call, *arguments, **options)

    return run


@_on_its_device
def forward(call: Call) -> Result:
    """Compute the output and the statistics; see `gn.backends.Backend.forward`."""
    shape = Shape.of(call)
    if (tiling := shape.tiling()) is None:
        return reference.forward(call)
    result, launches = forward_launches(call, shape, tiling)
    for launch in launches:
        launch.run()
    return result


@_on_its_device
def backward(call: Call, dy: Tensor, statistics: Tensor, needs_dx: bool, skip_dy: Tensor | None = None) -> Gradients:
    """Compute the gradients; see `gn.backends.Backend.backward`."""
    shape = Shape.of(call)
    if (tiling := shape.tiling()) is None:
        return reference.backward(call, dy, statistics, needs_dx, skip_dy)
    processors = _processors(call.x)
    gradients, launches = backward_launches(call, shape, tiling, dy, skip_dy, statistics, needs_dx, processors)
    for launch in launches:
        launch.run()
    return gradients


def _processors(x: Tensor) -> int:
    return torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 1
