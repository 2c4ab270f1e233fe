"""The rank of a worker in the process group of its job. Needs the standard library alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RankInfo:
    """What a worker needs to join the process group of its job.

    Attributes:
        rank: Number of the worker in the group, from 0.
        world_size: Number of workers in the group.
        host: Address at which the other workers reach this worker's node.
        timeout_s: Seconds to wait for the other workers, when joining and in every collective.
        address: host:port at which rank 0 listens; None on rank 0, which chooses the port itself.
    """

    rank: int
    world_size: int
    host: str
    timeout_s: float
    address: str | None = None
