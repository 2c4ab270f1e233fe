"""A device that cannot be used any more ends the process; a GPU without memory may be the fault of other processes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from worker.checkpoints.checkpoint import CheckpointNotWritten
from worker.data.datasets import ImageDataset
from worker.distributed.process_group import PeerLost, ProcessGroup
from worker.events import Event
from worker.training.failures import DeviceLost, Diverged, failure_of
from worker.training.loop import train
from worker.training.static_step import StaticStep

GPU = torch.device("cuda", 0)
GIB = 1 << 30
ASSERTION = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which a kernel has failed: every later call raises its error."""

    def fail(_device: object) -> None:
        raise torch.AcceleratorError(ASSERTION)

    monkeypatch.setattr(torch.cuda, "synchronize", fail)


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that works."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: None)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(ASSERTION),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        Diverged(3, "the loss is nan"),
        CheckpointNotWritten("the checkpoint could not be written"),
        ValueError("not a number"),
    ],
    ids=["torch", "Triton", "cuDNN", "cuBLAS", "diverged", "checkpoint", "invalid"],
)
def test_any_error_on_a_gpu_that_does_not_work_any_more_loses_the_device(error: Exception) -> None:
    with pytest.raises(DeviceLost, match=r"cuda:0 cannot be used any more at step 3: ") as lost:
        failure_of(error, 3, GPU)
    assert lost.value.__cause__ is error
    assert "\n" not in str(lost.value)


def test_a_gpu_that_may_wait_for_other_workers_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _device: pytest.fail("it would wait for the other workers"))
    several = ProcessGroup()
    assert failure_of(PeerLost("rank 0 of 2 lost the other workers"), 3, GPU, several).code == "peer"
    with pytest.raises(DeviceLost):
        failure_of(torch.AcceleratorError(ASSERTION), 3, GPU, several)


@pytest.mark.usefixtures("broken")
def test_a_broken_gpu_is_not_taken_for_one_without_memory() -> None:
    with pytest.raises(DeviceLost):
        failure_of(WANTED, 3, GPU)


@pytest.mark.usefixtures("working")
@pytest.mark.parametrize(
    ("error", "code"),
    [(RuntimeError("no kernel for this shape"), "exception"), (Diverged(3, "the loss is nan"), "diverged")],
)
def test_an_error_on_a_gpu_that_works_is_the_failure_of_the_attempt(error: Exception, code: str) -> None:
    assert failure_of(error, 3, GPU).code == code


def test_an_attempt_that_loses_its_device_does_not_report_an_end(
    make_spec: Callable[..., Any], synthetic: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(step: StaticStep) -> None:
        raise torch.AcceleratorError(ASSERTION)

    monkeypatch.setattr(StaticStep, "run", run)
    events: list[Event] = []
    with pytest.raises(DeviceLost, match="cpu cannot be used any more at step 0: CUDA error: device-side assert"):
        train(make_spec(), synthetic, report=events.append, save=lambda *_: None)
    assert [event.type for event in events] == ["started"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, working: None) -> Callable[..., None]:
    """Sets the memory of a GPU of 80 GiB: what is free, what this process has reserved, and its share."""

    def set_memory(free: float, own: float, share: float) -> None:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(free * GIB), 80 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: int(own * GIB))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _: share)

    return set_memory


WANTED = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 80 GiB")
LIBRARY = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
SYMBOL = torch.AcceleratorError("CUDA error: out of memory")
HUGE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 200.00 GiB.")


@pytest.mark.parametrize(
    ("error", "free", "own", "share", "may_pass"),
    [
        pytest.param(WANTED, 1, 40, 1.0, True, id="another process uses 39 GiB"),
        pytest.param(WANTED, 1, 78.5, 1.0, False, id="it uses the whole GPU"),
        pytest.param(WANTED, 30, 39, 0.5, False, id="it uses its whole share"),
        pytest.param(WANTED, 1, 30, 0.5, True, id="others use more than their share"),
        pytest.param(HUGE, 1, 40, 1.0, False, id="no GPU has so much"),
        pytest.param(LIBRARY, 0.1, 40, 1.0, True, id="a library"),
        pytest.param(SYMBOL, 0.1, 40, 1.0, True, id="CUDA itself"),
    ],
)
def test_out_of_memory_may_pass_where_other_processes_use_the_gpu(
    memory: Callable[..., None], error: Exception, free: float, own: float, share: float, may_pass: bool
) -> None:
    memory(free, own, share)

    failure = failure_of(error, 3, GPU)

    assert (failure.code, failure.may_pass) == ("out_of_memory", may_pass)
    assert ("other processes use" in failure.message) == may_pass
    assert "use a smaller batch_size" in failure.message


def test_the_memory_of_others_is_named(memory: Callable[..., None]) -> None:
    memory(1, 40, 1.0)
    assert "other processes use 38.0 GiB of this GPU" in failure_of(WANTED, 3, GPU).message
