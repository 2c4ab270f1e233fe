"""Notifications between the processes that share a file of SQLite: datagrams on local sockets.

A listener binds a socket in a private folder beside the database. A writer sends one byte to each socket of a channel
after its commit. A socket that was left behind by a killed process refuses the datagram and is removed.
"""

import asyncio
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MAX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of the path of a Unix socket (unix(7))."""
MAX_NAME = 48
"""Bytes of the name of a socket, with the slash before it."""
SUFFIX = "-notify"
"""What the name of the folder adds to that of the database, as SQLite's own -wal and -shm do."""

logger = logging.getLogger(__name__)


class Sockets:
    """The sockets of the listeners of one database file."""

    def __init__(self, database: Path) -> None:
        resolved = database.resolve()
        self.folder = resolved.with_name(resolved.name + SUFFIX)

    def send(self, channel: str) -> None:
        """Notify the listeners of a channel. Never waits, and never raises: listeners poll as well."""
        with suppress(OSError), _short(self.folder) as folder:
            names = [name for name in os.listdir(folder) if name.startswith(f"{channel}-")]
            if not names:
                return
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                for name in names:
                    _send(sender, f"{folder}/{name}")

    @contextmanager
    def listen(self, channel: str, notified: Callable[[], None]) -> Iterator[None]:
        """Call `notified` in the running event loop for notifications of a channel, and once at the beginning.

        If the file system has no sockets, the listener gets no notifications; the log says so.
        """
        try:
            listener, path = self._bind(channel)
        except OSError as error:
            logger.warning("no notifications, only polls: no socket can be made in %s: %s", self.folder, error)
            yield
            return
        loop = asyncio.get_running_loop()

        def receive() -> None:
            with suppress(BlockingIOError):
                while True:
                    listener.recv(1)
            notified()

        loop.add_reader(listener, receive)
        notified()
        try:
            yield
        finally:
            loop.remove_reader(listener)
            listener.close()
            path.unlink(missing_ok=True)

    def _bind(self, channel: str) -> tuple[socket.socket, Path]:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        name = f"{channel}-{os.getpid()}-{secrets.token_hex(4)}"
        assert len(name) < MAX_NAME, f"{name} is too long"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            listener.setblocking(False)
            with _short(self.folder) as folder:
                # Under another name first: a sender would remove a file that exists and is not bound yet.
                listener.bind(f"{folder}/.{name}")
                os.rename(f"{folder}/.{name}", f"{folder}/{name}")
        except OSError:
            listener.close()
            raise
        return listener, self.folder / name


def _send(sender: socket.socket, path: str) -> None:
    try:
        sender.sendto(b"\0", path)
    except ConnectionRefusedError:
        with suppress(OSError):
            os.unlink(path)
    except OSError:
        # BlockingIOError: the listener has not read its notifications yet. Otherwise it ended a moment ago.
        return


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """A path of the folder that leaves room for the name of a socket, on Linux however long its own path is."""
    if len(os.fsencode(folder)) + MAX_NAME <= MAX_PATH:
        yield str(folder)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
