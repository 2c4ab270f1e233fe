"""The failures of a training, as the service stores them and shows them to people."""

import traceback

import torch

from worker.checkpoints.checkpoint import CheckpointError, CheckpointNotWritten
from worker.data.datasets import DatasetError
from worker.distributed.process_group import PeerLost
from worker.events import Failure


class Diverged(ArithmeticError):
    """The loss or a weight is not a finite number."""

    def __init__(self, step: int, what: str) -> None:
        self.step = step
        super().__init__(f"{what} at step {step}: the training diverged; try a lower learning rate or a warm-up")


def failure_of(error: Exception, step: int | None) -> Failure:
    """Return the failure that describes `error`, raised at `step`."""
    message = str(error) or type(error).__name__
    match error:
        case Diverged():
            return Failure(code="diverged", message=message, step=error.step, may_pass=False)
        case DatasetError():
            return Failure(code="dataset", message=message, step=step, may_pass=False)
        case PeerLost():
            return Failure(code="peer", message=message, step=step, may_pass=True)
        case CheckpointError():
            may_pass = isinstance(error, CheckpointNotWritten)
            return Failure(code="checkpoint", message=message, step=step, may_pass=may_pass)
        case _ if is_out_of_memory(error):
            return Failure(
                code="out_of_memory",
                message=f"out of memory: {message}; use a smaller batch_size, a smaller model or bfloat16",
                step=step,
                may_pass=False,
            )
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, ValueError | TypeError):
        return Failure(code="invalid", message=message, step=step, may_pass=False, traceback=trace)
    message = f"{type(error).__name__}: {error}"
    return Failure(code="exception", message=message, step=step, may_pass=True, traceback=trace)


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the GPU or the CPU ran out of memory; torch has no exception of its own for the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
