"""A Ray cluster of this machine's own: one head, reachable with a token alone, beside any other Ray."""

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from service.local.home import Process
from service.local.processes import child_named
from service.settings import Settings

MEMORY_PER_WORKER = 1536 << 20
"""Bytes that a training worker is given room for."""
MOST_OBJECT_STORE = 1 << 30
LEAST_OBJECT_STORE = 100 << 20
LONGEST_TEMPORARY_FOLDER = 40
"""Ray puts Unix sockets some 60 characters below, and their paths end at 107."""


class PrivateRay:
    """Where the next head is to run; a new place every time, because the old one may still be in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = secrets.token_hex(32)
        self.folder: Path | None = None
        self.port = 0
        self._raylet: Process | None = None

    @property
    def address(self) -> str:
        """host:port of the head."""
        return f"127.0.0.1:{self.port}"

    @property
    def slots(self) -> int:
        """How many training workers fit on this machine's CPUs."""
        return max(1, min(available_cpus() // self._settings.cpus_per_worker, available_memory() // MEMORY_PER_WORKER))

    def environment(self) -> dict[str, str]:
        """What every process that is to talk to it needs."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # What it drains for 30 s by default is stopped by the dispatcher, or lives in checkpoints.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "AUTOSCALER_METRIC_PORT": "0",
            # By default Ray is nice about its workers, and whatever runs beside them pushes the training aside.
            "RAY_worker_niceness": "0",
        }

    def command(self) -> list[str]:
        """Choose a new place and say how to start a head there."""
        self.remove()
        self._raylet = None
        self.port = free_port()
        root = tempfile.gettempdir()
        self.folder = Path(
            tempfile.mkdtemp(prefix="normlab-", dir=root if len(root) < LONGEST_TEMPORARY_FOLDER else "/tmp")
        )
        command = [
            sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={self.port}",
            "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-agent-listen-port=0", f"--dashboard-port={free_port()}",
            "--include-dashboard=false", "--disable-usage-stats",
            f"--temp-dir={self.folder}",
            f"--object-store-memory={_object_store()}",
            f"--num-cpus={self.slots * self._settings.cpus_per_worker}",
            *client_server_port(),
        ]  # fmt: skip
        return command if self._settings.gpus_per_worker else [*command, "--num-gpus=0"]

    def answers(self) -> bool:
        """Whether the head accepts connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def is_hollow(self, head: int) -> bool:
        """Whether the raylet of the process `head` is gone.

        It leaves by itself where an agent of it dies. The head takes that for a shutdown it was told of, so it stays
        and answers, and nothing runs on it any more.
        """
        if self._raylet is None:
            self._raylet = child_named(head, "raylet")
            return False
        return not self._raylet.alive

    def remove(self) -> None:
        """Remove the folder of the last head."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None


def client_server_port() -> list[str]:
    """What keeps a head off port 10001: with gRPC there, it starts a server for Ray's clients, unasked."""
    return [f"--ray-client-server-port={free_port()}"] if importlib.util.find_spec("grpc") else []


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def available_cpus() -> int:
    """CPUs this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def available_memory() -> int:
    """Bytes of memory of this machine, or of its container."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):
        memory = min(memory, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return memory


def _object_store() -> int:
    room = available_memory() // 4
    with contextlib.suppress(OSError):
        room = min(room, shutil.disk_usage("/dev/shm").free // 2)
    return max(LEAST_OBJECT_STORE, min(MOST_OBJECT_STORE, room))
