"""The workers that train one model together, as seen from each of them.

`ProcessGroup` is the group of a single worker, which never communicates. `DistributedGroup` spans several workers over
torch.distributed: gloo between CPUs; between GPUs NCCL for tensors on them and gloo for tensors on the CPU.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store  # type: ignore[attr-defined]

from worker.distributed.gradients import GradientAverage
from worker.distributed.rank import RankInfo
from worker.distributed.rendezvous import RendezvousError, rendezvous, use_interface_of

__all__ = ["SINGLE_WORKER", "DistributedGroup", "PeerLost", "ProcessGroup", "SharedGPU", "join"]


class PeerLost(RuntimeError):
    """Another worker of the group ended, does not respond or never joined; the cause is not in this worker."""


class SharedGPU(ValueError):
    """Two workers of the group are on the same GPU, between which NCCL does not connect."""


class ProcessGroup:
    """The process group of a job with a single worker."""

    rank = 0
    world_size = 1

    @property
    def is_rank_zero(self) -> bool:
        """Whether this worker keeps the time, reports and saves checkpoints for the group."""
        return self.rank == 0

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true on any rank; a collective, with equally many flags on every rank."""
        return flags

    def gather(self, values: Sequence[float]) -> list[Sequence[float]]:
        """Return the `values` of every rank, in the order of ranks; a collective."""
        return [values]

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """Return the `tensor` of every rank, without gradients: (world_size, *shape); a collective."""
        return tensor.unsqueeze(0)

    def sum(self, *values: float) -> list[float]:
        """Return the sum of each value over the ranks, in float64 and in the order of ranks; a collective."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    def prepare(self, model: nn.Module, flat: Tensor, views: Sequence[Tensor]) -> None:
        """Prepare `model` for training in the group; call `average` after each backward pass.

        Args:
            model: The model.
            flat: Memory for the gradients of all parameters, (n,).
            views: The part of `flat` of each parameter.
        """

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the mean of each gradient over the ranks; a collective.

        Args:
            gradients: What the backward pass has computed, in the order of the parameters.
        """
        return gradients

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the running averages of rank 0, which are those of the job, to every rank; a collective."""

    def close(self) -> None:
        """Leave the group; the other workers notice it at once."""


SINGLE_WORKER = ProcessGroup()
"""The group of a job with a single worker."""


class DistributedGroup(ProcessGroup):
    """The process group of a job with several workers. Every collective raises `PeerLost`."""

    def __init__(self, rank: int, world_size: int, store: Store) -> None:
        self.rank, self.world_size = rank, world_size
        # Rank 0 serves the store, so it must live as long as the group.
        self._store: Store | None = store
        self._average: GradientAverage | None = None

    def any_rank(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether it is true on any rank."""
        raised = torch.tensor(flags, dtype=torch.uint8)
        with self._guard():
            dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def gather(self, values: Sequence[float]) -> list[Sequence[float]]:
        """Return the `values` of every rank, in the order of ranks."""
        gathered: list[Sequence[float]] = self.gather_tensor(torch.tensor(values, dtype=torch.float64)).tolist()
        return gathered

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """Return the `tensor` of every rank, (world_size, *shape)."""
        gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
        with self._guard():
            dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def prepare(self, model: nn.Module, flat: Tensor, views: Sequence[Tensor]) -> None:
        """Give the group to the layers that need it, and start to average gradients in `flat`."""
        for module in model.modules():
            if hasattr(module, "process_group"):
                module.process_group = self  # type: ignore[assignment]
        self._average = GradientAverage(list(model.parameters()), flat, views, self.world_size, self._guard)

    def average(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Wait for the mean of each gradient over the ranks; return the views that `prepare` was given."""
        assert self._average is not None, "prepare comes first"
        return self._average.finish()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the running averages of rank 0 to every rank."""
        averages = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not averages:
            return
        flat = torch.cat([average.flatten() for average in averages])
        with self._guard():
            dist.broadcast(flat, src=0)
        for average, received in zip(averages, torch.split(flat, [a.numel() for a in averages]), strict=True):
            average.copy_(received.view_as(average))

    def close(self) -> None:
        """Leave the group and remove the hooks from the model."""
        if self._average is not None:
            self._average.remove_hooks()
        with suppress(RuntimeError):
            dist.destroy_process_group()
        self._store = None

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Translate the errors of a communication into `PeerLost`."""
        try:
            yield
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise
        except RuntimeError as error:
            raise PeerLost(
                f"rank {self.rank} of {self.world_size} lost the other workers: {_first_line(error)}"
            ) from error


def join(
    info: RankInfo,
    name: str,
    device: torch.device,
    *,
    on_listening: Callable[[str], None] = lambda _: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> DistributedGroup:
    """Join the process group `name`; return once all workers have joined.

    Args:
        info: This worker's rank. `timeout_s` limits the wait here and in every collective of the group.
        name: Name of the group; all its workers give the same.
        device: Device that the worker trains on.
        on_listening: Called on rank 0 with the host:port that the other workers need as `info.address`.
        cancelled: Polled while waiting for the other workers; True ends the wait.

    Raises:
        PeerLost: If a worker is missing after `info.timeout_s`, or if it was cancelled; the message names the rank.
        SharedGPU: If two workers are on the same GPU.
    """
    deadline = time.monotonic() + info.timeout_s
    try:
        store, gpus = rendezvous(
            info, name, deadline, gpu=_identity(device), on_listening=on_listening, cancelled=cancelled
        )
        _check_distinct(gpus)
        use_interface_of(info.host)
        gpu = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=store,
            rank=info.rank,
            world_size=info.world_size,
            timeout=timedelta(seconds=info.timeout_s),
            device_id=torch.device("cuda", 0) if gpu else None,
        )
        group = DistributedGroup(info.rank, info.world_size, store)
        group.any_rank(True)
    except RendezvousError as error:
        raise PeerLost(str(error)) from error
    except PeerLost:
        _destroy()
        raise
    except RuntimeError as error:
        _destroy()
        raise PeerLost(
            f"rank {info.rank} of {info.world_size} did not reach the other workers: {_first_line(error)}"
        ) from error
    return group


def _identity(device: torch.device) -> str:
    """The UUID of a GPU, which is unique among all machines; empty for a CPU."""
    return str(torch.cuda.get_device_properties(device).uuid) if device.type == "cuda" else ""


def _check_distinct(gpus: Sequence[str]) -> None:
    for rank, gpu in enumerate(gpus):
        if gpu and (first := gpus.index(gpu)) < rank:
            raise SharedGPU(
                f"ranks {first} and {rank} of {len(gpus)} are both on the GPU {gpu}: each worker of a job needs a GPU "
                "of its own; set NORMLAB_GPUS_PER_WORKER to 1, or num_workers to 1"
            )


def _destroy() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _first_line(error: BaseException) -> str:
    """The first line of an error of torch, without the source location that gloo puts before it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition("] ")[2] or line if line.startswith("[") else line
