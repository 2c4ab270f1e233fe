"""What torch finds on this machine, as JSON: `python -m worker.devices`.

It runs in a process of its own because torch is slow to import, and because a CUDA context holds memory of the GPU.
"""

import json
from typing import TypedDict

import torch

from worker.numerics.gpus import driver_version, gpu_problem
from worker.numerics.precision import has_bfloat16


class DeviceReport(TypedDict):
    """What torch finds on a machine.

    Attributes:
        version: The version of torch.
        cuda: The version of CUDA that torch is built for; None without CUDA.
        driver: The version of NVIDIA's driver, if one is loaded.
        gpus: The names of the GPUs that torch can use.
        problem: Why torch cannot use a GPU; None if it can.
        bfloat16: Whether the GPUs, or else the CPU, compute in bfloat16.
    """

    version: str
    cuda: str | None
    driver: str | None
    gpus: list[str]
    problem: str | None
    bfloat16: bool


def device_report() -> DeviceReport:
    """Return what torch finds on this machine."""
    problem = gpu_problem()
    return {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "gpus": [] if problem else [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "problem": problem,
        "bfloat16": has_bfloat16(torch.device("cpu" if problem else "cuda")),
    }


if __name__ == "__main__":
    print(json.dumps(device_report()))
