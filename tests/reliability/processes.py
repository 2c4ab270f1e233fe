"""The processes of a service, and what they use."""

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass

import psutil

from tests.acceptance.whole_service import Service
from tests.integration.dispatcher.conftest import command_of, descendants

MARKS = {
    "raylet": b"raylet/raylet",
    "gcs": b"gcs_server",
    "actor": b"ray::TrainingWorker",
    "training": b"worker.process\0",
}


def find(service: Service, name: str) -> list[int]:
    """Return the processes with a name: a child of the supervisor, or one of `MARKS`."""
    pids = service.supervisor.pids
    if name in pids:
        return [pids[name]]
    family = descendants(pids["ray"]) if "ray" in pids else []
    return [pid for pid in family if MARKS.get(name, name.encode()) in command_of(pid)]


@dataclass(frozen=True)
class Use:
    """What processes use: MiB of memory that is theirs alone, file descriptors, threads."""

    memory: float
    descriptors: int
    threads: int


def use(service: Service) -> dict[str, Use]:
    """Return what the processes of a service use, by name; those of one name together."""
    names = {os.getpid(): "supervisor"}
    for name in ("api", "dispatcher", "raylet", "gcs", "actor", "training"):
        names |= dict.fromkeys(find(service, name), name)
    found: dict[str, list[Use]] = defaultdict(list)
    for pid, name in names.items():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            memory = process.memory_full_info().uss / 2**20
            found[name].append(Use(memory, process.num_fds(), process.num_threads()))
    return {
        name: Use(
            sum(one.memory for one in all_), sum(one.descriptors for one in all_), sum(one.threads for one in all_)
        )
        for name, all_ in found.items()
    }
