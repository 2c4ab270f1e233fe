"""The environment of a training: the name of its device and the versions of its libraries."""

from functools import cache
from importlib import metadata
from platform import python_version

import numpy as np
import torch


def device_name(device: torch.device) -> str:
    """Return "cpu", or the device with the name of the GPU, as "cuda:0 (NVIDIA H100)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


@cache
def versions() -> dict[str, str]:
    """Return the versions of the software that affects the results, by name."""
    try:
        normlab = metadata.version("normlab")
    except metadata.PackageNotFoundError:
        normlab = "not installed"
    return {"python": python_version(), "torch": torch.__version__, "numpy": np.__version__, "normlab": normlab}
