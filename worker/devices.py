"""What torch finds on this machine, as JSON: `python -m worker.devices`.

It runs in a process of its own because torch is slow to import, and because a CUDA context holds memory of the GPU.
"""

import json
from typing import TypedDict

import torch


class DeviceReport(TypedDict):
    """The version of torch, the names of the GPUs that it can use, and whether they compute in bfloat16."""

    version: str
    gpus: list[str]
    bfloat16: bool


def device_report() -> DeviceReport:
    """Return what torch finds on this machine."""
    cuda = torch.cuda.is_available()
    return {
        "version": torch.__version__,
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if cuda else [],
        "bfloat16": cuda and torch.cuda.is_bf16_supported(),
    }


if __name__ == "__main__":
    print(json.dumps(device_report()))
