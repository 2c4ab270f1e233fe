"""The machines of the Ray cluster, and how many training workers they have room for."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.settings import Settings


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. `slots` is the number of workers that fit on it."""

    id: str
    address: str
    cpus: float
    gpus: float
    slots: int


def node_of(node: Mapping[str, Any], settings: Settings) -> Node:
    """Read what Ray says of a node."""
    resources = node["Resources"]
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    slots = int(cpus // settings.cpus_per_worker)
    if settings.gpus_per_worker > 0:
        # Ray places no worker on two GPUs, so that a part of each may remain unused.
        slots = min(slots, int(gpus) * int(1 / settings.gpus_per_worker + 1e-6))
    address = node.get("NodeManagerAddress") or socket.gethostname()
    return Node(id=node["NodeID"], address=address, cpus=cpus, gpus=gpus, slots=slots)


def room_problem(nodes: Sequence[Node], settings: Settings) -> str | None:
    """Return why no worker can start on the nodes of the cluster; None if one has room for it."""
    if any(node.slots for node in nodes):
        return None
    largest = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    found = f"the largest has {largest.cpus:g} CPUs and {largest.gpus:g} GPUs" if largest else "it has no nodes"
    return (
        f"No node of the Ray cluster has room for a training worker, which takes NORMLAB_CPUS_PER_WORKER = "
        f"{settings.cpus_per_worker:g} and NORMLAB_GPUS_PER_WORKER = {settings.gpus_per_worker:g}: {found}."
    )
