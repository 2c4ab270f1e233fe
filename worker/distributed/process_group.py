"""The workers that train one model together, as each of them sees the group.

`ProcessGroup` is that of a worker by itself: nothing it does communicates. `Gang` is one of several, over
torch.distributed: gloo between CPUs, NCCL between GPUs with gloo beside it for what the CPU decides.
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
from worker.distributed.rank import Place
from worker.distributed.rendezvous import NotJoined, bind_interface, meet

__all__ = ["ALONE", "Gang", "PeerLost", "ProcessGroup", "join"]


class PeerLost(RuntimeError):
    """Another worker of the group ended, does not answer or never came: this one cannot go on, and is not to blame."""


class ProcessGroup:
    """A worker by itself."""

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this is the worker that decides by the clock, reports and saves."""
        return self.rank == 0

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        """Each flag: true where it is for any worker. All workers must ask, with as many flags."""
        return flags

    def gather(self, values: Sequence[float]) -> list[Sequence[float]]:
        """The `values` of every worker, by rank."""
        return [values]

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        """The `tensor` of every worker, (size, *shape), by rank; without gradients."""
        return tensor.unsqueeze(0)

    def sum(self, *values: float) -> list[float]:
        """The sum of each value over the workers, in float64 and always in one order."""
        return [sum(column) for column in zip(*self.gather(values), strict=True)]

    def prepare(self, model: nn.Module) -> None:
        """From now on `average_gradients` follows each backward pass of `model`."""

    def average_gradients(self) -> None:
        """Make every gradient the mean of the workers' ones."""

    def share_buffers(self, model: nn.Module) -> None:
        """Give every worker the running averages of the first one, which are the job's."""

    def close(self) -> None:
        """Leave the group: the others notice at once."""


ALONE = ProcessGroup()
"""The group of a worker by itself."""


class Gang(ProcessGroup):
    """One of several workers. Every method raises `PeerLost`."""

    def __init__(self, rank: int, size: int, store: Store) -> None:
        self.rank, self.size = rank, size
        # The first worker serves the store: it must live as long as the group.
        self._store: Store | None = store
        self._average: GradientAverage | None = None

    def agree(self, *flags: bool) -> tuple[bool, ...]:
        raised = torch.tensor(flags, dtype=torch.uint8)
        with self._together():
            dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(map(bool, raised.tolist()))

    def gather(self, values: Sequence[float]) -> list[Sequence[float]]:
        gathered: list[Sequence[float]] = self.gather_tensor(torch.tensor(values, dtype=torch.float64)).tolist()
        return gathered

    def gather_tensor(self, tensor: Tensor) -> Tensor:
        gathered = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._together():
            dist.all_gather(gathered, tensor)
        return torch.stack(gathered)

    def prepare(self, model: nn.Module) -> None:
        for module in model.modules():
            if hasattr(module, "process_group"):
                module.process_group = self  # type: ignore[assignment]
        self._average = GradientAverage(model, self.size, self._together)

    def average_gradients(self) -> None:
        assert self._average is not None, "prepare comes first"
        self._average.finish()

    def share_buffers(self, model: nn.Module) -> None:
        averages = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not averages:
            return
        together = torch.cat([average.flatten() for average in averages])
        with self._together():
            dist.broadcast(together, src=0)
        for average, shared in zip(averages, torch.split(together, [a.numel() for a in averages]), strict=True):
            average.copy_(shared.view_as(average))

    def close(self) -> None:
        if self._average is not None:
            self._average.remove()
        with suppress(RuntimeError):
            dist.destroy_process_group()
        self._store = None

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise PeerLost(f"rank {self.rank} of {self.size} lost the others: {_first_line(error)}") from error


def join(
    place: Place,
    name: str,
    device: torch.device,
    *,
    announce: Callable[[str], None] = lambda _: None,
    give_up: Callable[[], bool] = lambda: False,
) -> Gang:
    """Come together with the other workers of the group `name`; returns once all are there.

    The first worker listens at its own host, on a port that the system picks, and tells `announce` the address, which
    is in the `place` of the others. Raises `PeerLost` after `place.timeout_s`, saying whom it waited for, or when
    `give_up` says so. After as long a silence of the others every method of the group raises it too.
    """
    deadline = time.monotonic() + place.timeout_s
    try:
        store = meet(place, name, deadline, announce=announce, give_up=give_up)
        bind_interface(place.host)
        gpu = device.type == "cuda"
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=place.timeout_s),
            device_id=torch.device("cuda", 0) if gpu else None,
        )
        gang = Gang(place.rank, place.size, store)
        gang.agree(True)
    except NotJoined as error:
        raise PeerLost(str(error)) from error
    except PeerLost:
        _leave()
        raise
    except RuntimeError as error:
        _leave()
        raise PeerLost(f"rank {place.rank} of {place.size} did not reach the others: {_first_line(error)}") from error
    return gang


def _leave() -> None:
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _first_line(error: BaseException) -> str:
    """What torch says, without the place in its sources that gloo puts before it."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line.partition("] ")[2] or line if line.startswith("[") else line
