"""Compiles the kernels on first use, and keeps them.

A library is named after what went into it: the sources, the command, the compiler's version and the CPU. It ends in
the SHA-256 of all before, so that one that was cut short or damaged is noticed and built anew, not run. It appears
under its name by a rename, so that processes that start together see it whole or not at all.
"""

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

__all__ = ["BuildError", "cache_directory", "library"]

SOURCE = Path(__file__).parent
COMPILERS = ("c++", "g++", "clang++")
LAYOUTS = ("Contiguous", "ChannelsLast")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w")


class BuildError(RuntimeError):
    """There is no compiler, or it failed."""


def cache_directory() -> Path:
    """`GN_CACHE_DIR`, else `gn` in the user's cache directory."""
    if directory := os.environ.get("GN_CACHE_DIR"):
        return Path(directory)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gn"


@cache
def library(element: str) -> ctypes.CDLL | None:
    """The kernels for `element` (float, BFloat16 or Float16), or None, and a warning, where they cannot be had."""
    try:
        return _load(_build(element))
    except (BuildError, OSError, RuntimeError) as error:
        _warn(str(error))
        return None


@cache
def _warn(reason: str) -> None:
    warnings.warn(f"gn: no fused kernels, the slower reference is used instead: {reason}", RuntimeWarning, stacklevel=2)


def _build(element: str) -> Path:
    compiler = _compiler()
    path = _writable(cache_directory()) / f"group_norm-{element}-{_fingerprint(compiler)}.so"
    if not _intact(path):
        with _lock(path):
            if not _intact(path):
                _compile(compiler, element, path)
    return path


def _fingerprint(compiler: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for path in sorted((*SOURCE.glob("*.cpp"), *SOURCE.glob("*.h"))):
        digest.update(path.read_bytes())
    for part in (*compiler, *FLAGS, _run([*compiler, "--version"]), _processor()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:32]


def _compiler() -> tuple[str, ...]:
    if command := os.environ.get("CXX"):
        return tuple(shlex.split(command))
    for name in COMPILERS:
        if path := shutil.which(name):
            return (path,)
    raise BuildError(f"no C++ compiler: CXX is not set, and none of {', '.join(COMPILERS)} is on the PATH")


def _processor() -> str:
    """What `-march=native` depends on."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
        described = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        return "\n".join(line for line in lines if line.startswith(described))
    return f"{platform.machine()} {platform.processor()}"


def _compile(compiler: tuple[str, ...], element: str, path: Path) -> None:
    native = "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".build-") as build:

        def compile_(layout: str) -> str:
            object_ = f"{build}/{layout}.o"
            command = [*compiler, *FLAGS, native, f"-DGN_ELEMENT={element}", f"-DGN_LAYOUT={layout}"]
            command += ["-c", str(SOURCE / "group_norm.cpp"), "-o", object_]
            try:
                _run([*command, "-fopenmp"])
            except BuildError:
                _run(command)
            return object_

        with ThreadPoolExecutor(len(LAYOUTS)) as at_once:
            objects = list(at_once.map(compile_, LAYOUTS))
        shared = f"{build}/group_norm.so"
        # Not linked against an OpenMP library: the one torch has loaded serves, so that there is one set of threads.
        _run([*compiler, "-shared", "-fPIC", *_undefined(), "-o", shared, *objects])
        built = Path(shared).read_bytes()
        with open(shared, "ab") as file:
            file.write(hashlib.sha256(built).digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(shared, path)


def _undefined() -> tuple[str, ...]:
    return ("-Wl,-undefined,dynamic_lookup",) if platform.system() == "Darwin" else ("-Wl,-z,now",)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        lines = done.stderr.splitlines()
        reason = next((line for line in lines if "error" in line), "without an error message")
        raise BuildError(f"{command[0]} exits with {done.returncode}: {reason}")
    return done.stdout


def _intact(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return False
    return hashlib.sha256(content[:-32]).digest() == content[-32:]


def _load(path: Path) -> ctypes.CDLL:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # A torch that keeps its OpenMP library to itself, or has none.
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        loaded = ctypes.CDLL(str(path))
    for layout in LAYOUTS:
        kernel = getattr(loaded, f"gn_group_norm_{layout}")
        kernel.argtypes, kernel.restype = (ctypes.c_char_p,), None
    return loaded


def _writable(directory: Path) -> Path:
    with contextlib.suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    return Path(tempfile.mkdtemp(prefix="gn-"))


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lets one process compile while the others wait for it."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
