"""The environment of a training: the name of its device and the versions of its libraries."""

from functools import cache
from importlib import metadata
from platform import python_version

import numpy as np
import torch

from gn import backends, reference
from worker.numerics.gpus import driver_version


def device_name(device: torch.device) -> str:
    """Return "cpu", or the device with the name of the GPU, as "cuda:0 (NVIDIA H100)"."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions of the software that affects the results on `device`, by name.

    `gn` is what computes the normalizations: its kernels, or its reference where they cannot be compiled.
    """
    computes = backends.select(torch.ones(1, 1, 1, device=device))
    return libraries() | {"gn": "reference" if computes is reference else "kernels"}


@cache
def libraries() -> dict[str, str]:
    """Return the versions of Python and of libraries; of CUDA, cuDNN, driver and Triton if torch is built for CUDA."""
    found = {"python": python_version(), "torch": torch.__version__, "numpy": np.__version__}
    found["normlab"] = _installed("normlab") or "not installed"
    if torch.version.cuda is not None:
        cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
        names: dict[str, str | None] = {
            "cuda": torch.version.cuda,
            "cudnn": None if cudnn is None else str(cudnn),
            "driver": driver_version(),
            "triton": _installed("triton"),
        }
        found |= {name: version or "not installed" for name, version in names.items()}
    return found


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
