"""Compiles shared libraries on first use, and keeps them.

A library is named after what went into it: the sources, the command, the compiler's version and the CPU. It ends in
the SHA-256 of all before, so that one that was cut short or damaged is noticed and built anew, not run. It appears
under its name by a rename, so that processes that start together see it whole or not at all.
"""

import contextlib
import hashlib
import os
import platform
import shlex
import shutil
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
    """There is no compiler, or it failed."""


def cache_directory() -> Path:
    """`GN_CACHE_DIR`, else `gn` in the user's cache directory."""
    if directory := os.environ.get("GN_CACHE_DIR"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gn"


def compiler() -> tuple[str, ...]:
    """The command, from `CXX` or the PATH.

    Raises:
        BuildError: there is none.
    """
    if command := os.environ.get("CXX"):
        return tuple(shlex.split(command))
    for name in COMPILERS:
        if path := shutil.which(name):
            return (path,)
    raise BuildError(f"no C++ compiler: CXX is not set, and none of {', '.join(COMPILERS)} is on the PATH")


def native_flag() -> str:
    """The flag for the instructions of this machine's CPU."""
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def link_flags() -> tuple[str, ...]:
    """What links a shared library whose missing symbols torch has loaded, or will have."""
    return ("-shared", "-fPIC", "-Wl,-undefined,dynamic_lookup" if platform.system() == "Darwin" else "-Wl,-z,now")


class Library:
    """A library and its place in the cache.

    Args:
        name: what its file's name begins with.
        sources: patterns of the files in `gn/cpu` it is made of.
        settings: all else that goes into it: the command, versions.

    Raises:
        BuildError: the compiler does not tell its version.
    """

    def __init__(self, name: str, sources: Iterable[str], settings: Iterable[str]) -> None:
        digest = hashlib.sha256()
        for source in sorted(path for pattern in sources for path in SOURCE.glob(pattern)):
            digest.update(source.read_bytes())
        for part in (*settings, _version(compiler()), _processor()):
            digest.update(part.encode() + b"\0")
        self.file = f"{name}-{digest.hexdigest()[:32]}.so"

    def find(self) -> Path | None:
        """The library, if it is there and whole."""
        path = cache_directory() / self.file
        return path if _intact(path) else None

    def build(
        self, make: Callable[[Path], Path], *, last_resort: bool = True, abandoned: threading.Event | None = None
    ) -> Path:
        """The library, which `make` makes in the empty folder it is given, unless it is there or another process does.

        Where the cache cannot be written it lies in a new temporary folder, or, with `last_resort` off, is not built.
        Once it is `abandoned` there is no more waiting for another process.

        Raises:
            BuildError: it could not be built.
        """
        if path := self.find():
            return path
        directory = _writable(cache_directory(), last_resort)
        path = directory / self.file
        with _lock(path, abandoned):
            if not _intact(path):
                # Of a process that was killed while it held the lock.
                for leftover in directory.glob(f".build-{path.stem}-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                with tempfile.TemporaryDirectory(dir=directory, prefix=f".build-{path.stem}-") as folder:
                    _publish(make(Path(folder)), path)
        return path


def run(command: Iterable[str], *, started: Callable[["subprocess.Popen[str]"], None] | None = None) -> str:
    """What the command prints; `started` is told of a process in a group of its own.

    Raises:
        BuildError: it cannot be run, or fails: with the first line that says "error".
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
                output, errors = process.communicate(timeout=300)
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
    """What the flag for native instructions depends on."""
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


def _writable(directory: Path, last_resort: bool) -> Path:
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    if not last_resort:
        raise BuildError(f"{directory} cannot be written")
    return Path(tempfile.mkdtemp(prefix="gn-"))


@contextlib.contextmanager
def _lock(path: Path, abandoned: threading.Event | None = None) -> Iterator[None]:
    """Lets one process compile while the others wait for it, unless they have `abandoned` it."""
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
            # Closing would not do: a process forked meanwhile has the file open too.
            fcntl.flock(file, fcntl.LOCK_UN)
