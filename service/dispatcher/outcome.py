"""The outcome of an attempt, decided from how each of its workers ended."""

from collections.abc import Sequence

from service.dispatcher.cluster import WorkerGone
from worker.events import Failure, Finished

Ending = Finished | WorkerGone | None
"""The last report of a worker, or how it was lost; None for a worker that was still running."""
Outcome = Finished | Failure | WorkerGone
"""A last report to record, a failure, or the reason for which the attempt was lost."""


def decide_outcome(endings: Sequence[Ending]) -> Outcome:
    """Decide how an attempt ended.

    A result of rank 0 is the result of the attempt. Otherwise the failure of a worker is the failure of the attempt;
    the `peer` failures of the other workers are only its consequence. Without a failure the attempt was lost with its
    first lost worker.

    Args:
        endings: The ending of each worker, by rank. At least one of them has ended.

    Returns:
        The outcome. With several workers, its message names the rank.
    """
    first, several = endings[0], len(endings) > 1
    if isinstance(first, Finished) and (first.outcome != "failed" or not several):
        return first
    lost: WorkerGone | None = None
    left_behind: WorkerGone | None = None
    for rank, ending in enumerate(endings):
        prefix = f"rank {rank}: " if several else ""
        match ending:
            case Finished(failure=Failure(code="peer", message=message)):
                left_behind = left_behind or WorkerGone(message)
            case Finished(failure=Failure() as failure):
                return failure.model_copy(update={"message": f"{prefix}{failure.message}"})
            case WorkerGone():
                lost = lost or WorkerGone(f"{prefix}{ending}")
    return lost or left_behind or WorkerGone("a worker stopped the attempt")
