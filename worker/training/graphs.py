"""CUDA graphs: a sequence of kernels that is recorded once and launched as one."""

from collections.abc import Callable

import torch

WARM_UP_CALLS = 3
"""Calls before a capture, in which libraries choose algorithms and allocate their workspaces."""


def capture(body: Callable[[], object], warm_up: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Capture `body`, which must read and write memory at fixed addresses only.

    Args:
        body: What a replay repeats. A capture executes nothing.
        warm_up: Does the same as `body`; it is executed some times before.
        device: A GPU.

    Raises:
        RuntimeError: `body` cannot be captured, or the device does not work any more.
    """
    try:
        # A capture, and what it depends on, must not run on the default stream.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                warm_up()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        return graph
    finally:
        torch.cuda.synchronize(device)
