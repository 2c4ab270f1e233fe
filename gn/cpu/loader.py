"""The kernels: compiled for this machine on first use, and loaded."""

import ctypes
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gn.cpu import builder
from gn.cpu.builder import BuildError

__all__ = ["Kernels", "build", "library"]

SOURCES = ("*.h", "group_norm.cpp")
LAYOUTS = ("Contiguous", "ChannelsLast")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w")


@dataclass(frozen=True)
class Kernels:
    """Those for one type of element, by memory format; each takes a problem, packed as in `problem.h`."""

    contiguous: Any
    channels_last: Any


def build(element: str, *, last_resort: bool = True) -> Path:
    """The file of the kernels for `element`, built now unless it was before; `last_resort` as in `Library.build`.

    Raises:
        BuildError: it cannot be built.
    """
    command = (*builder.compiler(), *FLAGS, builder.native_flag(), f"-DGN_ELEMENT={element}")

    def make(folder: Path) -> Path:
        with ThreadPoolExecutor(len(LAYOUTS)) as at_once:
            objects = list(at_once.map(lambda layout: _compile(command, layout, folder), LAYOUTS))
        shared = folder / "group_norm.so"
        # Not linked against an OpenMP library: the one torch has loaded serves, so that there is one set of threads.
        builder.run([*builder.compiler(), *builder.link_flags(), "-o", str(shared), *objects])
        return shared

    return builder.Library(f"group_norm-{element}", SOURCES, command).build(make, last_resort=last_resort)


@cache
def library(element: str) -> Kernels | None:
    """The kernels for `element` (float, BFloat16 or Float16), or None, and a warning, where they cannot be had."""
    try:
        return _load(build(element))
    except (BuildError, OSError, RuntimeError) as error:
        _warn(str(error))
        return None


@cache
def _warn(reason: str) -> None:
    warnings.warn(f"gn: no fused kernels, the slower reference is used instead: {reason}", RuntimeWarning, stacklevel=2)


def _compile(command: tuple[str, ...], layout: str, folder: Path) -> str:
    compiled = str(folder / f"{layout}.o")
    whole = [*command, f"-DGN_LAYOUT={layout}", "-c", str(builder.SOURCE / "group_norm.cpp"), "-o", compiled]
    try:
        builder.run([*whole, "-fopenmp"])
    except BuildError:
        builder.run(whole)
    return compiled


def _load(path: Path) -> Kernels:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # A torch that keeps its OpenMP library to itself, or has none.
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        loaded = ctypes.CDLL(str(path))
    kernels = [loaded[f"gn_group_norm_{layout}"] for layout in LAYOUTS]
    for kernel in kernels:
        kernel.argtypes, kernel.restype = (ctypes.c_char_p,), None
    return Kernels(*kernels)
