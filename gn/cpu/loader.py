"""Compiles the C++ kernels for this machine on first use, and loads them."""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gn.cpu import builder
from gn.cpu.builder import BuildError

__all__ = ["NORMALIZATIONS", "Kernels", "Normalization", "build", "library"]

Normalization = Literal["group_norm", "batch_norm"]
"""The normalizations that have kernels; each has a source file and a library of its own."""

NORMALIZATIONS: tuple[Normalization, ...] = ("group_norm", "batch_norm")
HEADERS = "*.h"
LAYOUTS = ("Contiguous", "ChannelsLast")
FLAGS = ("-std=c++17", "-O2", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-w")


@dataclass(frozen=True)
class Kernels:
    """The C functions of one normalization for one element type, one for each memory format.

    Each takes a `Problem`, packed as `problem.h` defines it.
    """

    contiguous: Any
    channels_last: Any


def build(normalization: Normalization, element: str, *, fallback: bool = True) -> Path:
    """Compile the kernels of a normalization for `element`, unless the cache has them.

    Args:
        normalization: "group_norm" or "batch_norm".
        element: The C++ element type: "float", "BFloat16" or "Float16".
        fallback: See `Library.build`.

    Returns:
        The path of the shared library.

    Raises:
        BuildError: The kernels cannot be compiled.
    """
    command = (*builder.compiler(), *FLAGS, builder.native_flag(), f"-DGN_ELEMENT={element}")
    source = f"{normalization}.cpp"

    def make(folder: Path) -> Path:
        with ThreadPoolExecutor(len(LAYOUTS)) as compilers:
            objects = list(compilers.map(lambda layout: _compile(command, source, layout, folder), LAYOUTS))
        shared = folder / "kernels.so"
        # Not linked against OpenMP: the library that torch has loaded resolves the symbols, so both share one pool.
        builder.run([*builder.compiler(), *builder.link_flags(), "-o", str(shared), *objects])
        return shared

    return builder.Library(f"{normalization}-{element}", (HEADERS, source), command).build(make, fallback=fallback)


@cache
def library(normalization: Normalization, element: str) -> Kernels | BuildError:
    """Return the kernels of a normalization for `element`, compiled and loaded on the first call.

    Args:
        normalization: "group_norm" or "batch_norm".
        element: The C++ element type: "float", "BFloat16" or "Float16".

    Returns:
        The kernels, or the error if they cannot be compiled or loaded. Either is cached, so that a machine without a
        compiler tries once per process.
    """
    try:
        return _load(normalization, build(normalization, element))
    except (BuildError, OSError, RuntimeError) as error:
        return BuildError(str(error))


def _compile(command: tuple[str, ...], source: str, layout: str, folder: Path) -> str:
    compiled = str(folder / f"{layout}.o")
    whole = [*command, f"-DGN_LAYOUT={layout}", "-c", str(builder.SOURCE / source), "-o", compiled]
    try:
        builder.run([*whole, "-fopenmp"])
    except BuildError:
        builder.run(whole)
    return compiled


def _load(normalization: Normalization, path: Path) -> Kernels:
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError:
        # This torch does not export the symbols of its OpenMP library, or has none.
        ctypes.CDLL("libgomp.so.1", mode=ctypes.RTLD_GLOBAL)
        loaded = ctypes.CDLL(str(path))
    kernels = [loaded[f"gn_{normalization}_{layout}"] for layout in LAYOUTS]
    for kernel in kernels:
        kernel.argtypes, kernel.restype = (ctypes.c_char_p,), None
    return Kernels(*kernels)
