"""Compiles shared libraries on first use, and caches them on disk.

The name of a library contains a hash of its sources, the command, the version of the compiler and the CPU. Its file
ends in the SHA-256 of the preceding content, so that a truncated or damaged library is detected and rebuilt. A rename
publishes it, so that concurrent processes see either no file or a complete one.
"""

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

__all__ = ["SOURCE", "BuildError", "Library", "cache_directory", "compiler", "link_flags", "native_flag", "run"]

SOURCE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")


class BuildError(RuntimeError):
    """A library cannot be compiled or loaded: there is no compiler, it failed, or the cache cannot be written."""


def cache_directory() -> Path:
    """Return `$GN_CACHE_DIR`, else `$XDG_CACHE_HOME/gn`, else `~/.cache/gn`.

    Raises:
        BuildError: Neither variable is set, and this user has no home directory.
    """
    if directory := os.environ.get("GN_CACHE_DIR"):
        return Path(directory)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gn"
    except RuntimeError as error:
        raise BuildError("this user has no home directory: set GN_CACHE_DIR") from error


def compiler() -> tuple[str, ...]:
    """Return the command of the C++ compiler, from `CXX` or the PATH.

    Raises:
        BuildError: Neither names one.
    """
    if command := os.environ.get("CXX"):
        return tuple(shlex.split(command))
    for name in COMPILERS:
        if path := shutil.which(name):
            return (path,)
    raise BuildError(f"no C++ compiler: CXX is not set, and none of {', '.join(COMPILERS)} is on the PATH")


def native_flag() -> str:
    """Return the compiler flag that enables all instructions of this machine's CPU."""
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def link_flags() -> tuple[str, ...]:
    """Return the flags that link a shared library; torch provides its undefined symbols when it is loaded."""
    return ("-shared", "-fPIC", "-Wl,-undefined,dynamic_lookup" if platform.system() == "Darwin" else "-Wl,-z,now")


class Library:
    """A shared library and its path in the cache.

    Args:
        name: The prefix of its file name.
        sources: Glob patterns of its source files in `gn/cpu`.
        settings: Everything else the content depends on: the command, versions.

    Attributes:
        file: Its file name.

    Raises:
        BuildError: The compiler does not report its version.
    """

    def __init__(self, name: str, sources: Iterable[str], settings: Iterable[str]) -> None:
        digest = hashlib.sha256()
        for source in sorted(path for pattern in sources for path in SOURCE.glob(pattern)):
            digest.update(source.read_bytes())
        for part in (*settings, _version(compiler()), _processor()):
            digest.update(part.encode() + b"\0")
        self.file = f"{name}-{digest.hexdigest()[:32]}.so"

    def find(self) -> Path | None:
        """Return the path of the library if the cache has an intact one, or `gn-UID` in the temporary folder."""
        return next((path for folder in _folders() if _intact(path := folder / self.file)), None)

    def build(
        self, make: Callable[[Path], Path], *, fallback: bool = True, abandoned: threading.Event | None = None
    ) -> Path:
        """Return the path of the library, built unless the cache has it.

        While another process builds the same library, wait for it.

        Args:
            make: Builds the library in the empty folder it is given, and returns its path.
            fallback: If the cache cannot be written, build in `gn-UID` in the temporary folder instead of raising.
            abandoned: Once set, stop waiting for another process.

        Raises:
            BuildError: The library could not be built.
        """
        if path := self.find():
            return path
        directory = _writable(fallback)
        path = directory / self.file
        with _lock(path, abandoned):
            if not _intact(path):
                # Folders of processes that were killed while they held the lock.
                for leftover in directory.glob(f".build-{path.stem}-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                with tempfile.TemporaryDirectory(dir=directory, prefix=f".build-{path.stem}-") as folder:
                    _publish(make(Path(folder)), path)
        return path


def run(command: Iterable[str], *, started: Callable[["subprocess.Popen[str]"], None] | None = None) -> str:
    """Run a command and return its standard output.

    Args:
        command: The program and its arguments.
        started: Called with the process, which then runs in a process group of its own.

    Raises:
        BuildError: The command cannot be run, or exits with an error; the message has its first line with "error".
    """
    command = list(command)
    pipe = subprocess.PIPE
    group = None if started is None else 0
    try:
        with subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, errors="replace", process_group=group
        ) as process:
            try:
                if started is not None:
                    started(process)
                output, errors = process.communicate(timeout=900)
            except BaseException:
                process.kill()
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if process.returncode:
        reason = next((line for line in errors.splitlines() if "error" in line), "without an error message")
        raise BuildError(f"{command[0]} exits with {process.returncode}: {reason}")
    return output


@cache
def _version(command: tuple[str, ...]) -> str:
    return run([*command, "--version"])


@cache
def _processor() -> str:
    """The properties of the CPU that the flag for native instructions depends on."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
        described = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        return "\n".join(line for line in lines if line.startswith(described))
    return f"{platform.machine()} {platform.processor()}"


def _publish(built: Path, path: Path) -> None:
    content = built.read_bytes()
    with open(built, "ab") as file:
        file.write(hashlib.sha256(content).digest())
        file.flush()
        os.fsync(file.fileno())
    os.replace(built, path)


def _intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _folders() -> Iterator[Path]:
    """Yield the folders that libraries are loaded from."""
    with contextlib.suppress(BuildError):
        yield cache_directory()
    if _is_private(folder := _temporary_folder()):
        yield folder


def _writable(fallback: bool) -> Path:
    """Return the folder to build in, which is created if necessary."""
    try:
        cache = cache_directory()
        with contextlib.suppress(OSError):
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                return cache
        raise BuildError(f"{cache} cannot be written: set GN_CACHE_DIR to a directory that can")
    except BuildError as error:
        if not fallback:
            raise
        folder = _temporary_folder()
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
        if _is_private(folder):
            return folder
        raise BuildError(f"{error}; {folder} cannot be written by this user alone") from None


def _temporary_folder() -> Path:
    """Return the folder of this user within the temporary folder, which other users can write too."""
    return Path(tempfile.gettempdir(), f"gn-{_user()}")


def _is_private(folder: Path) -> bool:
    """Return whether a folder exists that only this user can have written."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == _user() and not status.st_mode & 0o022


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # the owner of every file where files have none


@contextlib.contextmanager
def _lock(path: Path, abandoned: threading.Event | None = None) -> Iterator[None]:
    """Hold the lock of a library, so that one process compiles while the others wait, unless `abandoned` is set."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path.with_suffix(".lock"), "w") as file:
        if abandoned is None:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if abandoned.wait(0.1):
                    raise BuildError("abandoned")
        try:
            yield
        finally:
            # Closing the file is not enough: a process forked in the meantime has it open too.
            fcntl.flock(file, fcntl.LOCK_UN)
