"""Whether torch can use a GPU of this machine and, if not, why; the version of NVIDIA's driver."""

import os
import re
from functools import cache
from pathlib import Path

import torch

LEAST_DRIVER = {12: 525, 13: 580}
"""The oldest driver for each major version of CUDA (NVIDIA, "CUDA Compatibility", table 1)."""

_DRIVER = Path("/proc/driver/nvidia/version")
_OLDER_CUDA = "https://download.pytorch.org/whl/cu126"


@cache
def driver_version() -> str | None:
    """Return the version of NVIDIA's driver, such as "580.65.06"; None if Linux has not loaded one."""
    try:
        found = re.search(r"Kernel Module(?: for \S+)? +([\d.]+)", _DRIVER.read_text())
    except OSError:
        return None
    return found[1] if found else None


def gpu_problem() -> str | None:
    """Return why torch cannot use a GPU, and a remedy; None if it can."""
    if torch.cuda.is_available():
        return None
    cuda, driver = torch.version.cuda, driver_version()
    if cuda is None:
        return f"torch {torch.__version__} is built without CUDA: install a wheel that has it, such as that of PyPI"
    built = f"torch {torch.__version__} is built for CUDA {cuda}"
    least = LEAST_DRIVER.get(int(cuda.split(".")[0]), 0)
    if driver is None:
        return (
            f"{built}, and no NVIDIA driver is loaded: install one of version {least} or newer, or run the container "
            "with the NVIDIA Container Toolkit"
        )
    if int(driver.split(".")[0]) < least:
        return (
            f"{built}, which needs driver {least} or newer, but the driver is {driver}: update it, or install a wheel "
            f"for an older CUDA with pip install torch=={torch.__version__.split('+')[0]} --index-url {_OLDER_CUDA}"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES is {visible!r}, which names no GPU that CUDA can use: see nvidia-smi"
    return f"{built} and the driver is {driver}, but CUDA finds no GPU: see nvidia-smi"
