"""The messages between the actor and its training process. They are pickled by the name of this module.

To the process: `Configure` once, then `Compare`, `Evaluate`, `Start`, `Stop`, `RenewLease` and `Ping`. From it: `Ready`
once, then `Compared`, `EvaluationEnded`, `Reported`, `Listening`, `LeaseRenewed` and `Pong`; `Ending` is the last, if
it can say why it ends.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.architecture import ModelName
from worker.data.datasets import ImageDataset
from worker.distributed.rank import RankInfo
from worker.events import Evaluated, Event, Failure, Precision, StopRequest

Files = Mapping[str, bytes]
"""Content of each file of a checkpoint, by name."""


@dataclass(frozen=True)
class Configure:
    """The first message to the process.

    Attributes:
        threads: CPU threads to train with.
        lease_s: A training pauses, with a checkpoint, if its lease is not renewed for this many seconds.
        gpu_share: The part of a GPU that the process may use, up to 1; 0 trains on the CPU.
    """

    threads: int
    lease_s: float
    gpu_share: float


@dataclass(frozen=True)
class Ready:
    """torch is loaded and warmed up.

    Attributes:
        device: The device that the process trains on.
        bfloat16: Whether that device computes in bfloat16.
    """

    device: str
    bfloat16: bool


@dataclass(frozen=True)
class Ending:
    """The process ends because it cannot train, now or any more."""

    reason: str


@dataclass(frozen=True)
class Compare:
    """Measure a training step in each precision. It is sent while no attempt trains."""

    model: ModelName
    batch_size: int


@dataclass(frozen=True)
class Compared:
    """The answer to `Compare`: the seconds of a step in each precision."""

    seconds: Mapping[Precision, float]


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a checkpoint. It is sent while no attempt trains.

    Attributes:
        checkpoint: Its files.
        dataset: Path of the mapped files of the dataset, or the dataset itself.
        asked: The `EvaluationSpec`, as JSON values.
    """

    checkpoint: Files
    dataset: Path | ImageDataset
    asked: dict[str, Any]


@dataclass(frozen=True)
class EvaluationEnded:
    """The answer to `Evaluate`: the result, or why there is none."""

    result: Evaluated | Failure


@dataclass(frozen=True)
class Start:
    """Train an attempt.

    Attributes:
        attempt_id: Id of the attempt.
        spec: The spec, as JSON values.
        dataset: Path of the mapped files of the dataset, or the dataset itself.
        checkpoint: Files of the checkpoint to resume from.
        rank_info: Rank of this worker, if the job has several.
        precision: What the precision "auto" was resolved to; None: the process resolves it.
        initial: Files of the checkpoint that `init_from` names, unless `checkpoint` is given.
    """

    attempt_id: str
    spec: dict[str, Any]
    dataset: Path | ImageDataset
    checkpoint: Files | None
    rank_info: RankInfo | None = None
    precision: Precision | None = None
    initial: Files | None = None


@dataclass(frozen=True)
class Stop:
    """Pause or cancel the attempt."""

    attempt_id: str
    request: StopRequest


@dataclass(frozen=True)
class RenewLease:
    """Renew the lease of the training."""


@dataclass(frozen=True)
class LeaseRenewed:
    """The answer to `RenewLease`, which shows that the process is alive."""


@dataclass(frozen=True)
class Ping:
    """Ask whether the process responds. Unlike `RenewLease` it lets an attempt that nobody polls end."""


@dataclass(frozen=True)
class Pong:
    """The answer to `Ping`."""


@dataclass(frozen=True)
class Reported:
    """An event of an attempt, with the files if it is a checkpoint."""

    attempt_id: str
    event: Event
    files: Files | None


@dataclass(frozen=True)
class Listening:
    """Rank 0 waits for the other workers of its attempt at `address`, host:port."""

    attempt_id: str
    address: str
