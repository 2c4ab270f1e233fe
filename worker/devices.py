"""What torch finds on this machine, as JSON: `python -m worker.devices`.

It runs in a process of its own because torch is slow to import, and because a CUDA context holds memory of the GPU.
"""

import json
from typing import TypedDict

import torch

from worker.numerics.precision import has_bfloat16


class DeviceReport(TypedDict):
    """The version of torch, the GPUs that it can use, and whether these, or else the CPU, compute in bfloat16."""

    version: str
    gpus: list[str]
    bfloat16: bool


def device_report() -> DeviceReport:
    """Return what torch finds on this machine."""
    cuda = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else [],
        "bfloat16": has_bfloat16(torch.device("cuda" if cuda else "cpu")),
    }


if __name__ == "__main__":
    print(json.dumps(device_report()))
