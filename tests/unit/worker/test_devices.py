"""The report of the doctor on torch and the GPUs."""

import torch

from worker.devices import device_report
from worker.numerics.gpus import driver_version
from worker.numerics.precision import has_bfloat16


def test_it_names_every_gpu_that_torch_can_use() -> None:
    report = device_report()
    assert report["version"] == torch.__version__
    assert len(report["gpus"]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)
    assert (report["cuda"], report["driver"]) == (torch.version.cuda, driver_version())
    assert (report["problem"] is None) == bool(report["gpus"])
    assert report["bfloat16"] == has_bfloat16(torch.device("cuda" if report["gpus"] else "cpu"))
