"""The Ray cluster: its nodes, its training workers, its object store.

An exception of Ray becomes `WorkerGone` if it concerns one worker, `ClusterGone` if it concerns the cluster. Calls that
need an answer of Ray's head are made in threads: while the head is frozen they block.
"""

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private.state import actors as actor_table
from ray.exceptions import ActorUnavailableError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from service.dispatcher import patience
from service.dispatcher.background import Background
from service.dispatcher.nodes import Node, node_of
from service.settings import Settings
from worker.data.datasets import DatasetError, load
from worker.events import Evaluated, Failure, Precision
from worker.events import StopRequest as Request
from worker.process.actor import CONCURRENT_CALLS, Report, TrainingProcessGone, TrainingWorker, WorkerState
from worker.process.process_ids import ProcessId, end, machine
from worker.spec import DatasetName

__all__ = [
    "Actor",
    "Cluster",
    "ClusterGone",
    "ClusterSilent",
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
PING_MARGIN_S = 2.0
"""The time that a worker has to answer a ping beyond the time that its training process has."""
EVALUATION_TIMEOUT_S = 3600.0
"""A worker that has not evaluated a checkpoint within this time counts as gone."""
CONNECT_TIMEOUT_S = 2.0
SURVEY_TIMEOUT_S = 4.0
DISCONNECT_TIMEOUT_S = 1.0


class ClusterGone(Exception):
    """The Ray cluster cannot be reached."""


class ClusterSilent(Exception):
    """The head of the Ray cluster accepts connections and does not answer."""


class WorkerGone(Exception):
    """A worker has ended, cannot be reached, or does not answer."""


@dataclass(frozen=True)
class Actor:
    """What Ray knows of a training worker. `alive` is false while it is not created yet."""

    name: str
    alive: bool
    node_id: str
    pid: int


class Worker:
    """A training worker: an asynchronous client of `worker.process.actor.TrainingWorker`.

    Every call raises `WorkerGone` if the worker has ended, cannot be reached, or does not answer.

    Args:
        name: The name of its actor.
        actor: The handle of its actor, or a future of it.
        control: The thread in which Ray is asked to kill it.
    """

    def __init__(self, name: str, actor: Any, control: Background) -> None:
        self.name = name
        self.heard_at = time.monotonic()
        """When it last answered, by `time.monotonic`."""
        self._actor, self._control = actor, control
        self._state: WorkerState | None = None
        self._lost: str | None = None
        self._awaited: set[asyncio.Future[Any]] = set()

    async def prepare(self) -> WorkerState:
        """Wait without a time limit until the worker is scheduled and warm."""
        if isinstance(self._actor, asyncio.Future):
            try:
                self._actor = await self._actor
            except Exception as error:
                raise WorkerGone(f"Ray did not create the worker: {error}") from error
        self._state = await self._answer(self._actor.prepare.remote(), None)
        return self._state

    async def describe(self) -> WorkerState:
        """The node, the device and the attempt of the worker."""
        self._state = await self._answer(self._actor.describe.remote(), ANSWER_TIMEOUT_S)
        return self._state

    async def ping(self, wait_s: int) -> None:
        """Check that the worker responds, and its training process within `wait_s` seconds."""
        await self._answer(self._actor.ping.remote(wait_s), wait_s + PING_MARGIN_S)

    async def receive(self, dataset: Any) -> None:
        """Transfer a dataset from `Cluster.load_dataset` to the node of the worker."""
        await self._answer(self._actor.receive.remote(dataset), 10 * ANSWER_TIMEOUT_S)

    async def compare_precisions(self, model: str, batch_size: int) -> Mapping[Precision, float]:
        """The seconds of a training step in each precision."""
        compared = self._actor.compare_precisions.remote(model, batch_size)
        seconds: Mapping[Precision, float] = await self._answer(compared, 10 * ANSWER_TIMEOUT_S)
        return seconds

    async def evaluate(
        self, checkpoint: Mapping[str, bytes], dataset: Any, asked: dict[str, Any]
    ) -> Evaluated | Failure:
        """Evaluate a checkpoint.

        Args:
            checkpoint: Its files.
            dataset: A reference from `Cluster.load_dataset`.
            asked: The `EvaluationSpec`, as JSON.
        """
        evaluated = self._actor.evaluate.remote(dict(checkpoint), dataset, asked)
        result: Evaluated | Failure = await self._answer(evaluated, EVALUATION_TIMEOUT_S)
        return result

    async def start(
        self,
        attempt_id: str,
        spec: dict[str, Any],
        dataset: Any,
        checkpoint: Any,
        rank: int = 0,
        address: str = "",
        precision: Precision | None = None,
        initial: Any = None,
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
            initial: A reference from `share` to the checkpoint that `init_from` names, or None.
        """
        # On the first start on a node, the images are transferred within this call.
        start = self._actor.start.remote
        started = start(attempt_id, spec, dataset, checkpoint, rank, address or None, precision, initial)
        await self._answer(started, 10 * ANSWER_TIMEOUT_S)

    async def rendezvous(self, attempt_id: str) -> str | None:
        """The host:port at which rank 0 listens for the others, or None if it does not listen."""
        asked = self._actor.rendezvous.remote(attempt_id, ANSWER_TIMEOUT_S)
        address: str | None = await self._answer(asked, 2 * ANSWER_TIMEOUT_S)
        return address

    async def poll(self, attempt_id: str, after_seq: int, wait_s: float) -> Report:
        """The events after `after_seq`, as soon as there are any, or none after `wait_s` seconds. Renews the lease."""
        polled = self._actor.poll.remote(attempt_id, after_seq, wait_s)
        report: Report = await self._answer(polled, wait_s + ANSWER_TIMEOUT_S)
        return report

    async def request(self, attempt_id: str, request: Request) -> None:
        """Request that the attempt pauses or stops for good."""
        await self._answer(self._actor.request.remote(attempt_id, request), ANSWER_TIMEOUT_S)

    async def fetch(self, files: Any) -> Mapping[str, bytes]:
        """The files of a checkpoint that a report refers to."""
        fetched: Mapping[str, bytes] = await self._answer(files, 6 * ANSWER_TIMEOUT_S)
        return fetched

    def kill(self, reason: str = "the worker was killed") -> None:
        """Kill the worker, whether it responds or not. Calls that wait for it raise `WorkerGone` with the reason."""
        self._lost = self._lost or reason
        for awaited in self._awaited:
            awaited.cancel()
        if self._state is not None and self._state.machine == machine():
            # Ray does not end a process that is stopped, and asks its head, which may not answer.
            end(self._state.processes)
        self.retire()

    def retire(self) -> None:
        """Let Ray end the worker, which responds and has no attempt."""
        self._control.submit(_kill, self.name)

    async def _answer(self, reference: Any, timeout_s: float | None) -> Any:
        if self._lost is not None:
            raise WorkerGone(self._lost)
        awaited = asyncio.ensure_future(_value_of(reference))
        self._awaited.add(awaited)
        try:
            answered = await patience.wait(awaited, timeout_s)
        finally:
            self._awaited.discard(awaited)
            awaited.cancel()
        if not answered or awaited.cancelled():
            raise WorkerGone(self._lost or f"the worker did not answer for {timeout_s:g} s")
        answer = awaited.result()
        self.heard_at = time.monotonic()
        return answer


class Cluster:
    """The connection to a Ray cluster, as its driver."""

    def __init__(self, settings: Settings) -> None:
        assert settings.ray_address is not None
        self.address = settings.ray_address
        self._settings = settings
        self._control, self._questions = Background("ray control"), Background("ray questions")
        self._connecting: asyncio.Future[None] | None = None
        self._surveying: asyncio.Future[tuple[Sequence[Node], Sequence[Actor]]] | None = None

    async def connect(self) -> None:
        """Connect. A connection that was not made in time is continued by the next call.

        Raises:
            ClusterGone: If the head refuses the connection.
            ClusterSilent: If it does not answer yet.
        """
        if self._connecting is None:
            await self.check()
            self._connecting = self._questions.submit(self._connect)
        if not await patience.wait(self._connecting, SURVEY_TIMEOUT_S):
            raise ClusterSilent(f"Ray at {self.address} accepts connections and does not answer")
        connected, self._connecting = self._connecting, None
        try:
            connected.result()
        except (ConnectionError, RuntimeError, RayError) as error:
            raise ClusterGone(f"Ray at {self.address} refused the connection: {error}") from error
        # Ray installs handlers that print a stack trace on a signal: restore those of Python.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.getsignal(number))

    def _connect(self) -> None:
        try:
            ray.init(
                address=self.address,
                namespace=self._settings.ray_namespace,
                log_to_driver=False,
                configure_logging=False,
            )
        except BaseException:
            ray.shutdown()
            raise

    async def check(self) -> None:
        """Check that the head of the cluster accepts connections. Raises `ClusterGone` if it does not."""
        host, _, port = self.address.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except (OSError, ValueError, TimeoutError) as error:
            raise ClusterGone(f"Ray at {self.address} cannot be reached: {error or 'no answer'}") from error
        writer.close()

    async def disconnect(self) -> None:
        """Disconnect, if Ray lets that happen in time. The workers keep running."""
        await patience.wait(self._control.submit(ray.shutdown), DISCONNECT_TIMEOUT_S)

    async def survey(self) -> tuple[Sequence[Node], Sequence[Actor]]:
        """The machines of the cluster that are alive, and all workers, including those of earlier drivers.

        Raises:
            ClusterSilent: If the head does not answer.
        """
        if self._surveying is None:
            self._surveying = self._questions.submit(self._survey)
        if not await patience.wait(self._surveying, SURVEY_TIMEOUT_S):
            raise ClusterSilent(f"Ray at {self.address} did not answer for {SURVEY_TIMEOUT_S:g} s")
        answered, self._surveying = self._surveying, None
        try:
            return answered.result()
        except Exception as error:
            raise ClusterSilent(f"Ray at {self.address} answered with an error: {error}") from error

    def _survey(self) -> tuple[Sequence[Node], Sequence[Actor]]:
        nodes = [node_of(node, self._settings) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        # The table has the actors of all namespaces, and not those that are still created.
        alive = {entry["Name"]: entry for entry in actor_table(actor_state_name="ALIVE").values()}
        return nodes, [_actor(name, alive.get(name)) for name in ray.util.list_named_actors()]

    async def load_dataset(self, name: DatasetName, data_dir: Path, progress: Callable[[str], None]) -> Any:
        """Load a dataset into the object store. Returns a reference to it. Raises `DatasetError`."""
        dataset = await asyncio.to_thread(load, name, data_dir, progress)
        return await asyncio.to_thread(ray.put, dataset)

    def start_worker(self, name: str) -> Worker:
        """Request another worker from Ray. It outlives this driver; `Worker.prepare` waits until it is ready."""
        return Worker(name, self._control.submit(self._start_worker, name), self._control)

    def _start_worker(self, name: str) -> Any:
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
        return actor.remote(settings.cpus_per_worker, settings.worker_lease_s, settings.rendezvous_timeout_s)

    async def worker(self, actor: Actor) -> Worker:
        """An existing worker. Raises `WorkerGone` if it has ended."""
        try:
            return Worker(actor.name, await self._questions.submit(ray.get_actor, actor.name), self._control)
        except ValueError as error:
            raise WorkerGone("the worker's process ended") from error

    def end(self, actor: Actor) -> None:
        """End a worker that is of no use, whether it responds or not: by Ray, and by SIGKILL on its node."""
        self._control.submit(_kill, actor.name)
        if actor.pid:
            self._control.submit(_end_on_node, actor)


async def share(files: Mapping[str, bytes]) -> Any:
    """Put files into the object store. Returns a reference to them."""
    return await asyncio.to_thread(ray.put, dict(files))


async def _value_of(reference: Any) -> Any:
    """The answer to a call, or `WorkerGone` for an error of Ray."""
    try:
        return await reference
    except ActorUnavailableError as error:
        raise WorkerGone("the worker cannot be reached") from error
    except RayTaskError as error:
        gone = isinstance(error.cause, TrainingProcessGone)
        raise WorkerGone(str(error.cause) if gone else f"the worker raised {error.cause!r}") from error
    except RayActorError as error:
        raise WorkerGone("the worker's process ended") from error
    except RayError as error:
        raise WorkerGone(" ".join(str(error).split())[:300]) from error


def _kill(name: str) -> None:
    """Let Ray end an actor and release what it holds."""
    with suppress(ValueError):
        ray.kill(ray.get_actor(name))


def _end_on_node(actor: Actor) -> None:
    """End the process of an actor by a task on its node: Ray itself does not end a process that is stopped."""
    on_node = NodeAffinitySchedulingStrategy(actor.node_id, soft=False)
    ray.remote(end).options(num_cpus=0, max_retries=0, scheduling_strategy=on_node).remote([ProcessId(actor.pid)])


def _actor(name: str, entry: Mapping[str, Any] | None) -> Actor:
    if entry is None:
        return Actor(name, alive=False, node_id="", pid=0)
    return Actor(name, alive=True, node_id=entry["Address"]["NodeID"], pid=entry["Pid"])
