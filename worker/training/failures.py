"""The failures of a training, as the service stores them and shows them to people."""

import re
import traceback

import torch

from worker.checkpoints.checkpoint import CheckpointError, CheckpointNotWritten
from worker.data.datasets import DatasetError
from worker.distributed.process_group import SINGLE_WORKER, PeerLost, ProcessGroup, SharedGPU
from worker.events import Failure

CONTEXT_BYTES = 1 << 30
"""More than a CUDA context and the libraries of torch occupy on a GPU beside the tensors of a process."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Diverged(ArithmeticError):
    """The loss or a weight is not a finite number."""

    def __init__(self, step: int, what: str) -> None:
        self.step = step
        super().__init__(f"{what} at step {step}: the training diverged; try a lower learning rate or a warm-up")


class DeviceLost(RuntimeError):
    """This process cannot use its GPU any more; a new process may be able to."""


def failure_of(
    error: Exception,
    step: int | None,
    device: torch.device | None = None,
    group: ProcessGroup = SINGLE_WORKER,
) -> Failure:
    """Return the failure that describes `error`, raised at `step` of a training on `device` in a process group.

    Call it while the memory of the training is still allocated.

    Raises:
        DeviceLost: If `error` leaves the process without its device.
    """
    if device is not None and has_lost_device(error, device, group):
        where = "" if step is None else f" at step {step}"
        raise DeviceLost(f"{device} cannot be used any more{where}: {first_line(error)}") from error
    message = str(error) or type(error).__name__
    match error:
        case Diverged():
            return Failure(code="diverged", message=message, step=error.step, may_pass=False)
        case DatasetError():
            return Failure(code="dataset", message=message, step=step, may_pass=False)
        case PeerLost():
            return Failure(code="peer", message=message, step=step, may_pass=True)
        case SharedGPU():
            return Failure(code="invalid", message=message, step=step, may_pass=False)
        case CheckpointError():
            may_pass = isinstance(error, CheckpointNotWritten)
            return Failure(code="checkpoint", message=message, step=step, may_pass=may_pass)
        case _ if is_out_of_memory(error):
            others = memory_of_others(error, device) if device is not None and device.type == "cuda" else 0
            advice = "use a smaller batch_size, a smaller model or bfloat16"
            if others:
                advice = f"other processes use {others / 2**30:.1f} GiB of this GPU; later it may pass, or {advice}"
            message = f"out of memory: {message}; {advice}"
            return Failure(code="out_of_memory", message=message, step=step, may_pass=bool(others))
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ValueError | TypeError):
        return Failure(code="invalid", message=message, step=step, may_pass=False, traceback=trace)
    message = f"{type(error).__name__}: {error}"
    return Failure(code="exception", message=message, step=step, may_pass=True, traceback=trace)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the GPU or the CPU ran out of memory.

    torch has no exception of its own for the CPU, and none for the memory that libraries allocate on a GPU.
    """
    texts = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in texts)


def memory_of_others(error: Exception, device: torch.device) -> int:
    """Return the bytes of a GPU that other processes occupy if this process ran out of memory because of them, else 0.

    A process whose allocations exceed its own share of the GPU, or the whole GPU, has itself to blame.
    """
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    requested = re.search(r"Tried to allocate ([\d.]+) ([KMGT]?)i?B", str(error))
    wanted = int(float(requested[1]) * _UNITS[requested[2]]) if requested else 0
    share = torch.cuda.get_per_process_memory_fraction(device)
    others = total - free - own - CONTEXT_BYTES
    return others if others > 0 and own + wanted <= min(share * total, total - CONTEXT_BYTES) else 0


def has_lost_device(error: Exception, device: torch.device, group: ProcessGroup) -> bool:
    """Return whether `error` leaves this process without its GPU.

    A kernel that fails, as by an illegal memory access or an assertion on the device, makes every later call of CUDA in
    the process fail. The error is then raised by whichever call comes next, of torch, Triton or a library. A GPU that
    may wait for those of other workers is not asked; after a failure their processes are replaced in any case.
    """
    if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
        return True
    return group is SINGLE_WORKER and not responds(device)


def responds(device: torch.device) -> bool:
    """Return whether this process can use a device."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def first_line(error: BaseException) -> str:
    """Return the first line of an error; those of CUDA go on with advice for debugging."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
