"""A private Ray cluster of one node, independent of other Ray clusters on the machine.

Its processes need a token, listen on the loopback interface, and keep their files in a folder of this user.
"""

import contextlib
import os
import secrets
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from service.local.home import Process
from service.local.processes import child_named, tail
from service.local.ray_start import HOOK
from service.local.resources import available_cpus, available_memory
from service.ray_environment import LOOPBACK
from service.settings import Settings

MEMORY_PER_WORKER = 1536 << 20
"""Bytes of memory that are planned for a training worker."""
MAX_OBJECT_STORE = 1 << 30
MIN_OBJECT_STORE = 100 << 20
MAX_SOCKET = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket (unix(7))."""
LONGEST_SOCKET = "/normlab-12345678/r/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray creates below a temporary folder; a process id has up to 7 digits."""
MAX_TEMPORARY_FOLDER = MAX_SOCKET - len(LONGEST_SOCKET)
"""Bytes of the path of a temporary folder that Ray can use."""
TEMPORARY_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""The folders that are tried after the temporary folder of this process."""


class PrivateRay:
    """The head of a private Ray cluster. Each start uses a new port and folder, because the old ones may be in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = secrets.token_hex(32)
        self.folder: Path | None = None
        """The folder of Ray's files, which other users cannot enter: Ray makes the folders in it writable for all."""
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
        """The environment of the head and of every process that connects to it."""
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # By default Ray drains for 30 s; the dispatcher has stopped its jobs, or they resume from checkpoints.
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            # Otherwise Ray replaces 127.0.0.1 by another address of the machine, and listens on all of them.
            LOOPBACK: "0",
            "RAY_START_HOOK": HOOK,
            # By default Ray lowers the priority of its workers, and other processes slow the training down.
            "RAY_worker_niceness": "0",
        }

    def command(self) -> list[str]:
        """Choose a new port and folder, and return the command that starts a head there."""
        self.remove()
        self._raylet = None
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="normlab-", dir=temporary_folder()))
        command = [
            sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--node-ip-address=127.0.0.1", f"--port={self.port}",
            "--min-worker-port=0", "--max-worker-port=0",
            "--dashboard-agent-listen-port=0", f"--dashboard-port={free_port()}",
            "--include-dashboard=false", "--disable-usage-stats",
            # A single node is not scaled, and the process that would scale it serves metrics without a token.
            "--no-monitor",
            f"--temp-dir={self._temporary}",
            f"--object-store-memory={_object_store()}",
            f"--num-cpus={self.slots * self._settings.cpus_per_worker}",
        ]  # fmt: skip
        return command if self._settings.gpus_per_worker else [*command, "--num-gpus=0"]

    @property
    def _temporary(self) -> Path:
        assert self.folder is not None
        return self.folder / "r"

    def answers(self) -> bool:
        """Whether the head accepts connections."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def raylet_exited(self, head: int) -> bool:
        """Whether the raylet of the process `head` has exited.

        A raylet exits when one of its agents dies. The head treats this as a regular shutdown: it keeps running and
        answering, but can no longer run anything.
        """
        if self._raylet is None:
            self._raylet = child_named(head, "raylet")
            return False
        return not self._raylet.alive

    @property
    def notice(self) -> str | None:
        """Where Ray's files are if that is not in the temporary folder of this process, and why; else None."""
        if self.folder is None or self.folder.parent == Path(tempfile.gettempdir()):
            return None
        return (
            f"Ray's files are in {self.folder}, because {tempfile.gettempdir()} cannot be used: the path of Ray's "
            f"temporary folder may have {MAX_TEMPORARY_FOLDER} bytes of UTF-8"
        )

    def errors(self, lines: int = 4) -> str:
        """The last lines that Ray's processes wrote to their standard error, which Ray keeps in its folder."""
        if self.folder is None:
            return ""
        logs = self._temporary / "session_latest/logs"
        tails = {log.name: tail(log, lines) for log in (logs / "gcs_server.err", logs / "raylet.err")}
        return "\n".join(f"{name} ends with:\n{end}" for name, end in tails.items() if end)

    def remove(self) -> None:
        """Remove the folder of the last head."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = None


def temporary_folder() -> str:
    """A folder for Ray's files whose path leaves room for those of Ray's sockets.

    Raises:
        RuntimeError: There is none that can be written.
    """
    tried = (tempfile.gettempdir(), *TEMPORARY_FOLDERS)
    for folder in tried:
        if leaves_room_for_sockets(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise RuntimeError(
        f"Ray needs a temporary folder that can be written and whose path has at most {MAX_TEMPORARY_FOLDER} bytes of "
        f"UTF-8: set TMPDIR to one ({', '.join(tried)} cannot be used)"
    )


def leaves_room_for_sockets(folder: str) -> bool:
    """Whether Ray can create its sockets below a folder: their paths are UTF-8, and limited in bytes."""
    path = os.fsencode(folder)
    try:
        path.decode()
    except UnicodeDecodeError:
        return False
    return len(path) <= MAX_TEMPORARY_FOLDER


def free_port(host: str = "127.0.0.1", port: int = 0) -> int:
    """A TCP port at which a server can listen on every address of `host`: `port`, unless that is 0.

    Raises:
        OSError: There is none: the port is in use or not permitted, or the host is not this machine.
    """
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            if port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address[0], port, *address[2:]))
            port = probe.getsockname()[1]
    return port


def _object_store() -> int:
    room = available_memory() // 4
    with contextlib.suppress(OSError):
        room = min(room, shutil.disk_usage("/dev/shm").free // 2)
    return max(MIN_OBJECT_STORE, min(MAX_OBJECT_STORE, room))
