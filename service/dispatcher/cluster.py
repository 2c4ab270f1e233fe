"""The Ray cluster: its slots, its training workers, its object store.

Every exception of Ray becomes one of two of ours: `WorkerGone` for one worker, `ClusterGone` for all of them.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError

from service.settings import Settings
from worker.data.datasets import DatasetError, load
from worker.events import StopRequest as Request
from worker.process.actor import CONCURRENT_CALLS, Report, TrainingProcessGone, TrainingWorker, WorkerState
from worker.spec import DatasetName

__all__ = [
    "Cluster",
    "ClusterGone",
    "DatasetError",
    "Node",
    "Report",
    "Request",
    "Worker",
    "WorkerGone",
    "WorkerState",
    "share",
]

ANSWER_TIMEOUT_S = 10.0
"""A worker that does not answer a call within this, beyond what the call may wait, counts as gone."""
CONNECT_TIMEOUT_S = 2.0


class ClusterGone(Exception):
    """Ray cannot be reached."""


class WorkerGone(Exception):
    """A worker ended, cannot be reached, or does not answer."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster, and how many workers fit on it."""

    id: str
    address: str
    cpus: float
    gpus: float
    slots: int


class Worker:
    """A training worker: the calls of `worker.process.actor.TrainingWorker`, awaited."""

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor

    async def prepare(self) -> WorkerState:
        """Wait, however long, until it is scheduled, and warm. Raises `WorkerGone`."""
        state: WorkerState = await _answer(self._actor.prepare.remote(), None)
        return state

    async def describe(self) -> WorkerState:
        """Where it is and what it does. Raises `WorkerGone`."""
        state: WorkerState = await _answer(self._actor.describe.remote(), ANSWER_TIMEOUT_S)
        return state

    async def receive(self, dataset: Any) -> None:
        """Have the images of `Cluster.load_dataset` on its node. Raises `WorkerGone`."""
        await _answer(self._actor.receive.remote(dataset), 10 * ANSWER_TIMEOUT_S)

    async def start(
        self, attempt_id: str, spec: dict[str, Any], dataset: Any, checkpoint: Any, rank: int = 0, address: str = ""
    ) -> None:
        """Begin an attempt on a dataset from `Cluster.load_dataset`, as the worker `rank` of several if there are.

        `checkpoint` is the files, a reference to them from `share`, or None; `address` is where the first of several
        workers listens. Raises `WorkerGone`.
        """
        # The first worker of a node waits for the images to reach it.
        started = self._actor.start.remote(attempt_id, spec, dataset, checkpoint, rank, address or None)
        await _answer(started, 10 * ANSWER_TIMEOUT_S)

    async def rendezvous(self, attempt_id: str) -> str | None:
        """Where the first of several workers listens for the others; None where it does not. Raises `WorkerGone`."""
        asked = self._actor.rendezvous.remote(attempt_id, ANSWER_TIMEOUT_S)
        address: str | None = await _answer(asked, 2 * ANSWER_TIMEOUT_S)
        return address

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """The events after `after_seq`, at the latest after `wait_s`. Raises `WorkerGone`."""
        polled = self._actor.poll.remote(attempt_id, after_seq, wait_s)
        report: Report = await _answer(polled, wait_s + ANSWER_TIMEOUT_S)
        return report

    async def request(self, attempt_id: str, request: Request) -> None:
        """Ask the attempt to pause or to cancel. Raises `WorkerGone`."""
        await _answer(self._actor.request.remote(attempt_id, request), ANSWER_TIMEOUT_S)

    async def fetch(self, files: Any) -> Mapping[str, bytes]:
        """The files of a checkpoint that a report refers to. Raises `WorkerGone`."""
        fetched: Mapping[str, bytes] = await _answer(files, 6 * ANSWER_TIMEOUT_S)
        return fetched

    def kill(self) -> None:
        """End it at once, whatever it does."""
        try:
            ray.kill(self._actor)
        except (RayError, ValueError):
            return


class Cluster:
    """A connection to Ray as its driver."""

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address is not None
        self.address = settings.ray_address
        self._settings = settings

    async def connect(self) -> None:
        """Connect, or raise `ClusterGone`."""
        await self.check()
        try:
            await asyncio.to_thread(self._connect)
            # Ray answers a signal with a stack trace before it lets Python have it: give Python its handlers back.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.getsignal(number))
        except (ConnectionError, RuntimeError, RayError) as error:
            ray.shutdown()
            raise ClusterGone(f"Ray at {self.address} does not let this driver in: {error}") from error

    def _connect(self) -> None:
        ray.init(
            address=self.address,
            namespace=self._settings.ray_namespace,
            log_to_driver=False,
            configure_logging=False,
        )

    async def check(self) -> None:
        """Raise `ClusterGone` unless the head of the cluster accepts connections."""
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterGone(f"Ray at {self.address} cannot be reached: {error or 'no answer'}") from error
        writer.close()

    def disconnect(self) -> None:
        """Leave; the workers stay."""
        ray.shutdown()

    async def nodes(self) -> Sequence[Node]:
        """The living machines of the cluster."""
        return [_node(node, self._settings) for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]

    async def load_dataset(self, name: DatasetName, data_dir: Path, progress: Callable[[str], None]) -> Any:
        """Load a dataset here and put it where the workers of every node read it. Raises `DatasetError`."""
        dataset = await asyncio.to_thread(load, name, data_dir, progress)
        return await asyncio.to_thread(ray.put, dataset)

    def start_worker(self, name: str) -> Worker:
        """Ask Ray for one more worker. It outlives this driver; `Worker.prepare` waits for it."""
        settings = self._settings
        actor = ray.remote(TrainingWorker).options(
            name=name,
            lifetime="detached",
            num_cpus=settings.cpus_per_worker,
            num_gpus=settings.gpus_per_worker,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=CONCURRENT_CALLS,
        )
        prepared = actor.remote(settings.cpus_per_worker, settings.worker_lease_s, settings.rendezvous_timeout_s)
        return Worker(name, prepared)

    async def workers(self) -> Sequence[Worker]:
        """The workers that exist, whoever asked for them."""
        return await asyncio.to_thread(self._workers)

    def _workers(self) -> Sequence[Worker]:
        found = []
        for name in ray.util.list_named_actors():
            try:
                found.append(Worker(name, ray.get_actor(name)))
            except ValueError:
                continue
        return found


async def share(files: Mapping[str, bytes]) -> Any:
    """A reference to files that several workers are to have."""
    return await asyncio.to_thread(ray.put, dict(files))


async def _answer(reference: Any, timeout_s: float | None) -> Any:
    try:
        async with asyncio.timeout(timeout_s):
            return await reference
    except TimeoutError as error:
        raise WorkerGone(f"the worker did not answer for {timeout_s:g} s") from error
    except ActorUnavailableError as error:
        raise WorkerGone("the worker cannot be reached") from error
    except RayTaskError as error:
        gone = isinstance(error.cause, TrainingProcessGone)
        raise WorkerGone(str(error.cause) if gone else f"the worker raised {error.cause!r}") from error
    except RayActorError as error:
        raise WorkerGone("the worker's process ended") from error
    except RayError as error:
        raise WorkerGone(" ".join(str(error).split())[:300]) from error


def _node(node: Mapping[str, Any], settings: Settings) -> Node:
    resources = node["Resources"]
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    slots = int(cpus // settings.cpus_per_worker)
    if settings.gpus_per_worker > 0:
        slots = min(slots, int(gpus / settings.gpus_per_worker + 1e-6))
    address = node.get("NodeManagerAddress") or socket.gethostname()
    return Node(id=node["NodeID"], address=address, cpus=cpus, gpus=gpus, slots=slots)
