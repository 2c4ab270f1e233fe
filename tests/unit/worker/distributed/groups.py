"""Processes that act as the workers of one job."""

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch

from worker.checkpoints.checkpoint import Checkpoint
from worker.data import datasets
from worker.distributed.process_group import DistributedGroup, join
from worker.distributed.rank import RankInfo
from worker.events import StopRequest
from worker.spec import TrainingSpec
from worker.training.loop import train

HOST = "127.0.0.1"
PATIENCE_S = 120.0
synthetic = cache(datasets.synthetic)
"""The synthetic dataset, made once per process."""


class Died(Exception):
    """A worker ended instead of returning a result."""


class Team:
    """Processes that form a process group for each function that they run."""

    def __init__(self, size: int) -> None:
        self._members = [_Member() for _ in range(size)]
        self._number = 0

    def run(self, size: int, function: Callable[..., Any], *arguments: Any, timeout_s: float = PATIENCE_S) -> list[Any]:
        """Return the result of `function(group, *arguments)` of each of `size` workers; `Died` for one that ended."""
        self._number += 1
        first, *others = members = self._members[:size]
        task = f"group {self._number}", function, arguments
        first.ask((RankInfo(0, size, HOST, timeout_s), *task))
        address = first.address()
        for rank, member in enumerate(others, start=1):
            member.ask((RankInfo(rank, size, HOST, timeout_s, address), *task))
        return [member.answer() for member in members]

    def close(self) -> None:
        """End the processes."""
        for member in self._members:
            member.end()


class _Member:
    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._near, far = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(far,), daemon=True)
        self._process.start()
        far.close()

    def ask(self, task: Any) -> None:
        self._near.send(task)

    def address(self) -> str:
        address: str = self._receive()
        return address

    def answer(self) -> Any:
        try:
            return self._receive()
        except EOFError:
            # Replace the process for later tests.
            self.end()
            self._start()
            return Died()

    def _receive(self) -> Any:
        assert self._near.poll(PATIENCE_S), "a worker of the team does not answer"
        outcome, value = self._near.recv()
        assert outcome == "returned", value
        return value

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def _serve(connection: Connection) -> None:
    torch.set_num_threads(1)
    while True:
        try:
            info, name, function, arguments = connection.recv()
        except EOFError:
            return
        group: DistributedGroup | None = None
        try:
            group = join(info, name, torch.device("cpu"), on_listening=lambda at: connection.send(("returned", at)))
            outcome = "returned", function(group, *arguments)
        except BaseException:
            outcome = "raised", traceback.format_exc()
        finally:
            if group is not None:
                group.close()
        connection.send(outcome)


@dataclass(frozen=True)
class Stop:
    """A request to the worker `rank` before its batch `at` (from 0); with `die`, its process ends instead."""

    rank: int
    request: StopRequest | None
    at: int
    die: bool = False


def attempt(group: DistributedGroup, spec: str, resume: Checkpoint | None = None, stop: Stop | None = None) -> Any:
    """Return the `Record` of an attempt on the synthetic dataset on one worker of a group."""
    from tests.unit.worker.conftest import Record

    record, asked = Record(), 0

    def keep(event: Any, checkpoint: Checkpoint) -> None:
        record.events.append(event)
        record.checkpoints.append(checkpoint)

    def control() -> StopRequest | None:
        nonlocal asked
        asked += 1
        if stop is None or stop.rank != group.rank or asked <= stop.at:
            return None
        if stop.die:
            os._exit(1)
        return stop.request

    train(
        TrainingSpec.model_validate_json(spec),
        synthetic(),
        report=record.events.append,
        save=keep,
        control=control,
        resume=resume,
        group=group,
    )
    return record


def records(team: Team, spec: TrainingSpec, **options: Any) -> Sequence[Any]:
    """The records of all workers of a job, by rank."""
    return team.run(spec.num_workers, attempt, spec.model_dump_json(), *options.values())
