"""Builds and loads `torch.ops.gn.eager_group_norm` and `eager_batch_norm`, which call kernels without executing Python.

At small batches Python takes longer to call a layer than the layer takes to run. Compiling against torch's headers
takes many seconds, so a thread does it in the background, at the lowest priority, once for each version of torch. Until
then, and where it cannot be compiled, `gn.cpu.kernels` computes the same results, bit for bit.
"""

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Tensor

from gn.cpu import builder, kernels, loader
from gn.cpu.builder import BuildError

__all__ = ["Extension", "build", "operator"]

Operator = Callable[..., list[Tensor]]
"""The fields of a `Call` or `BatchCall`, with the activation as its code and 0 for no ghost batches; `return_skip`."""

SOURCES = ("extension.cpp", "extension*.h", "problem.h")
TORCH = Path(torch.__file__).parent
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-w", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")


def operator(normalization: loader.Normalization, dtype: torch.dtype) -> Operator | None:
    """Return the operator of a normalization once it can compute `dtype`, else None; the first call starts a build."""
    return _operators.get((normalization, dtype)) or _prepared(normalization, dtype)


def build() -> Path:
    """Compile the extension, unless the cache has it, and return its path.

    Raises:
        BuildError: The extension cannot be compiled, or the cache cannot be written.
    """
    return _library().build(_compile, fallback=False)


class Extension:
    """The state of the extension in this process: not requested, being built, loaded, or failed after a warning."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: Future[Path] | None = None
        self._loaded: ctypes.CDLL | None = None
        self._failed = False

    def library(self) -> ctypes.CDLL | None:
        """Return the loaded extension, or None while it is being built and if it failed; never blocks."""
        if self._loaded is None and not self._failed:
            with self._lock:
                self._advance()
        return self._loaded

    def _advance(self) -> None:
        try:
            if self._file is None:
                self._file = _begin()
            if self._loaded is None and self._file.done():
                self._loaded = _load(self._file.result())
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"gn: no extension of torch, so that small batches take longer: {error}", RuntimeWarning, stacklevel=2
            )


_extension = Extension()
_operators: dict[tuple[loader.Normalization, torch.dtype], Operator] = {}


def _prepared(normalization: loader.Normalization, dtype: torch.dtype) -> Operator | None:
    if (library := kernels.library(dtype, normalization)) is None or (extension := _extension.library()) is None:
        return None
    addresses = (ctypes.cast(kernel, ctypes.c_void_p) for kernel in (library.contiguous, library.channels_last))
    extension.gn_use(loader.NORMALIZATIONS.index(normalization), kernels.CODES[dtype], *addresses)
    found: Operator = getattr(torch.ops.gn, f"eager_{normalization}").default
    _operators[normalization, dtype] = found
    return found


def _load(path: Path) -> ctypes.CDLL:
    if not hasattr(torch.ops.gn, "eager_group_norm"):
        return ctypes.CDLL(str(path))
    try:
        # This module was imported twice, or reloaded. torch would abort if another library registered the operator.
        return ctypes.CDLL(str(path), mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        raise BuildError("another version of gn has loaded its own") from None


def _command() -> tuple[str, ...]:
    return (*builder.compiler(), *FLAGS, f"-I{TORCH / 'include'}")


def _library() -> builder.Library:
    return builder.Library("extension", SOURCES, (*_command(), torch.__version__))


def _compile(
    folder: Path, *, priority: tuple[str, ...] = (), started: Callable[["subprocess.Popen[str]"], None] | None = None
) -> Path:
    shared = folder / "extension.so"
    source = builder.SOURCE / "extension.cpp"
    libraries = (f"-L{TORCH / 'lib'}", "-ltorch_cpu", "-lc10")
    builder.run(
        [*priority, *_command(), str(source), *builder.link_flags(), "-o", str(shared), *libraries], started=started
    )
    return shared


def _begin() -> Future[Path]:
    """The path of the extension: available at once if the cache has it, else after a build in the background."""
    library = _library()
    if (path := library.find()) is None:
        return _Build(library).file
    file: Future[Path] = Future()
    file.set_result(path)
    return file


class _Build:
    """A build of the extension on a thread, abandoned when the process exits."""

    def __init__(self, library: builder.Library) -> None:
        self.file: Future[Path] = Future()
        self._library = library
        self._compiler: subprocess.Popen[str] | None = None
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._build, name="gn extension", daemon=True)
        atexit.register(self._abandon)
        self._thread.start()

    def _build(self) -> None:
        try:
            self.file.set_result(self._library.build(self._compile, abandoned=self._abandoned))
        except Exception as error:
            self.file.set_exception(error)
        atexit.unregister(self._abandon)

    def _compile(self, folder: Path) -> Path:
        nice = shutil.which("nice")
        return _compile(folder, priority=(nice, "-n", "19") if nice else (), started=self._compiles)

    def _compiles(self, compiler: "subprocess.Popen[str]") -> None:
        self._compiler = compiler
        if self._abandoned.is_set():
            self._kill()

    def _abandon(self) -> None:
        self._abandoned.set()
        if self._compiler is not None:
            self._kill()
        self._thread.join()

    def _kill(self) -> None:
        """Kill the compiler and its child processes."""
        assert self._compiler is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._compiler.pid, signal.SIGKILL)
