"""The Ray cluster: its nodes, its training workers, its object store.

An exception of Ray becomes `WorkerGone` if it concerns one worker, `ClusterGone` if it concerns the cluster.
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
from worker.events import Precision
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
"""A worker that does not answer a call within this time, plus the time the call may wait, counts as gone."""
CONNECT_TIMEOUT_S = 2.0


class ClusterGone(Exception):
    """The Ray cluster cannot be reached."""


class WorkerGone(Exception):
    """A worker has ended, cannot be reached, or does not answer."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. `slots` is the number of workers that fit on it."""

    id: str
    address: str
    cpus: float
    gpus: float
    slots: int


class Worker:
    """A training worker: an asynchronous client of `worker.process.actor.TrainingWorker`.

    Every call raises `WorkerGone` if the worker has ended, cannot be reached, or does not answer.
    """

    def __init__(self, name: str, actor: Any) -> None:
        self.name = name
        self._actor = actor

    async def prepare(self) -> WorkerState:
        """Wait without a time limit until the worker is scheduled and warm."""
        state: WorkerState = await _answer(self._actor.prepare.remote(), None)
        return state

    async def describe(self) -> WorkerState:
        """The node, the device and the attempt of the worker."""
        state: WorkerState = await _answer(self._actor.describe.remote(), ANSWER_TIMEOUT_S)
        return state

    async def receive(self, dataset: Any) -> None:
        """Transfer a dataset from `Cluster.load_dataset` to the node of the worker."""
        await _answer(self._actor.receive.remote(dataset), 10 * ANSWER_TIMEOUT_S)

    async def compare_precisions(self, model: str, batch_size: int) -> Mapping[Precision, float]:
        """The seconds of a training step in each precision."""
        compared = self._actor.compare_precisions.remote(model, batch_size)
        seconds: Mapping[Precision, float] = await _answer(compared, 10 * ANSWER_TIMEOUT_S)
        return seconds

    async def start(
        self,
        attempt_id: str,
        spec: dict[str, Any],
        dataset: Any,
        checkpoint: Any,
        rank: int = 0,
        address: str = "",
        precision: Precision | None = None,
    ) -> None:
        """Start an attempt.

        Args:
            attempt_id: The attempt.
            spec: The training spec, as JSON.
            dataset: A reference from `Cluster.load_dataset`.
            checkpoint: A reference from `share` to the files to resume from, or None.
            rank: The rank of the worker in the attempt.
            address: host:port at which rank 0 listens for the others; empty for rank 0 itself.
            precision: What the precision `auto` of the spec is resolved to.
        """
        # On the first start on a node, the images are transferred within this call.
        started = self._actor.start.remote(attempt_id, spec, dataset, checkpoint, rank, address or None, precision)
        await _answer(started, 10 * ANSWER_TIMEOUT_S)

    async def rendezvous(self, attempt_id: str) -> str | None:
        """The host:port at which rank 0 listens for the others, or None if it does not listen."""
        asked = self._actor.rendezvous.remote(attempt_id, ANSWER_TIMEOUT_S)
        address: str | None = await _answer(asked, 2 * ANSWER_TIMEOUT_S)
        return address

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """The events after `after_seq`, as soon as there are any, or none after `wait_s` seconds. Renews the lease."""
        polled = self._actor.poll.remote(attempt_id, after_seq, wait_s)
        report: Report = await _answer(polled, wait_s + ANSWER_TIMEOUT_S)
        return report

    async def request(self, attempt_id: str, request: Request) -> None:
        """Request that the attempt pauses or stops for good."""
        await _answer(self._actor.request.remote(attempt_id, request), ANSWER_TIMEOUT_S)

    async def fetch(self, files: Any) -> Mapping[str, bytes]:
        """The files of a checkpoint that a report refers to."""
        fetched: Mapping[str, bytes] = await _answer(files, 6 * ANSWER_TIMEOUT_S)
        return fetched

    def kill(self) -> None:
        """Kill the worker."""
        try:
            ray.kill(self._actor)
        except (RayError, ValueError):
            return


class Cluster:
    """The connection to a Ray cluster, as its driver."""

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address is not None
        self.address = settings.ray_address
        self._settings = settings

    async def connect(self) -> None:
        """Connect. Raises `ClusterGone` if that is not possible."""
        await self.check()
        try:
            await asyncio.to_thread(self._connect)
            # Ray installs handlers that print a stack trace on a signal: restore those of Python.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.getsignal(number))
        except (ConnectionError, RuntimeError, RayError) as error:
            ray.shutdown()
            raise ClusterGone(f"Ray at {self.address} refused the connection: {error}") from error

    def _connect(self) -> None:
        ray.init(
            address=self.address,
            namespace=self._settings.ray_namespace,
            log_to_driver=False,
            configure_logging=False,
        )

    async def check(self) -> None:
        """Check that the head of the cluster accepts connections. Raises `ClusterGone` if it does not."""
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterGone(f"Ray at {self.address} cannot be reached: {error or 'no answer'}") from error
        writer.close()

    def disconnect(self) -> None:
        """Disconnect. The workers keep running."""
        ray.shutdown()

    async def nodes(self) -> Sequence[Node]:
        """The machines of the cluster that are alive."""
        return [_node(node, self._settings) for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]

    async def load_dataset(self, name: DatasetName, data_dir: Path, progress: Callable[[str], None]) -> Any:
        """Load a dataset into the object store. Returns a reference to it. Raises `DatasetError`."""
        dataset = await asyncio.to_thread(load, name, data_dir, progress)
        return await asyncio.to_thread(ray.put, dataset)

    def start_worker(self, name: str) -> Worker:
        """Request another worker from Ray. It outlives this driver; `Worker.prepare` waits until it is ready."""
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
        """All existing workers, including those of earlier drivers."""
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
    """Put files into the object store. Returns a reference to them."""
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
        # Ray places no worker on two GPUs, so that a part of each may remain unused.
        slots = min(slots, int(gpus) * int(1 / settings.gpus_per_worker + 1e-6))
    address = node.get("NodeManagerAddress") or socket.gethostname()
    return Node(id=node["NodeID"], address=address, cpus=cpus, gpus=gpus, slots=slots)
