"""The usage of an attempt is that of this process since the attempt started."""

import time

import psutil
import pytest
import torch

from worker.events import Finished, Log, Progress, Usage
from worker.process.usage import UsageMeter


def spend(cpu_s: float) -> None:
    """Compute until this process has used this CPU time."""
    before = time.process_time()
    while time.process_time() - before < cpu_s:
        sum(range(1000))


def test_cpu_time_counts_from_the_start_of_the_attempt() -> None:
    spend(0.05)
    meter = UsageMeter("cpu")
    at_first = meter.measure().cpu_s
    spend(0.1)
    own = sum(psutil.Process().cpu_times()[:2])

    assert at_first <= 0.02 < own
    # The system counts in ticks of 10 ms.
    assert 0.08 <= meter.measure().cpu_s - at_first <= own


def test_peak_memory_stays_when_memory_is_returned() -> None:
    meter = UsageMeter("cpu")
    before = meter.measure().peak_memory_bytes
    held = bytearray(b"x") * (64 << 20)
    with_it = meter.measure().peak_memory_bytes
    del held

    assert with_it >= before + (48 << 20)
    assert meter.measure().peak_memory_bytes >= with_it


def test_memory_of_a_gpu_is_known_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_back: list[str] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", set_back.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:0": 7 << 30}.__getitem__)

    assert UsageMeter("cpu").measure().peak_gpu_memory_bytes is None
    assert set_back == []
    assert UsageMeter("cuda:0").measure().peak_gpu_memory_bytes == 7 << 30
    assert set_back == ["cuda:0"]


def test_the_utilization_of_a_gpu_is_the_mean_of_what_nvml_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    said = iter([100, 50])
    monkeypatch.setattr(torch.cuda, "utilization", lambda _: next(said))
    meter = UsageMeter("cuda:0")

    assert meter.measure().gpu_utilization == 1.0
    assert meter.measure().gpu_utilization == 0.75
    assert UsageMeter("cpu").measure().gpu_utilization is None


def test_a_gpu_without_nvml_has_no_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(device: str) -> int:
        asked.append(device)
        raise ModuleNotFoundError("No module named 'pynvml'")

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    meter = UsageMeter("cuda:0")

    assert [meter.measure().gpu_utilization for _ in range(2)] == [None, None]
    assert asked == ["cuda:0"], "it is asked once"


def test_the_progress_and_the_end_of_an_attempt_have_its_usage() -> None:
    meter = UsageMeter("cpu")
    for event in (Progress(epoch=1, step=1), Finished(outcome="succeeded")):
        completed = meter.complete(event)
        assert isinstance(completed, Progress | Finished)
        assert isinstance(completed.usage, Usage)
        assert completed.model_copy(update={"usage": None}) == event
    log = Log(message="no usage")
    assert meter.complete(log) is log
