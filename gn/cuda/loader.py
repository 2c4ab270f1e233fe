"""Whether Triton can compile and launch kernels in this process."""

import os
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["failure"]

_MAPS = Path("/proc/self/maps")


@cache
def failure() -> str | None:
    """Return why the CUDA kernels cannot run on this machine, None if they can.

    Triton compiles its launcher with a C compiler and the headers of Python when its driver is first used. The result
    is cached, so that a machine without them tries once per process.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    from triton.runtime import driver

    _name_library()
    try:
        _ = driver.active.utils
    except subprocess.CalledProcessError as error:
        return f"Triton cannot compile its launcher: {error.cmd[0]} failed; are the headers of Python installed?"
    except (AssertionError, ImportError, OSError, RuntimeError) as error:
        return f"Triton cannot launch kernels: {error}"
    return None


def _name_library() -> None:
    """Tell Triton the folder of libcuda.so.1, which torch has loaded.

    Triton asks ldconfig, whose cache does not name the libraries that are mounted into a read-only container.
    """
    if os.environ.get("TRITON_LIBCUDA_PATH") or not _MAPS.exists():
        return
    for line in _MAPS.read_text().splitlines():
        _, slash, rest = line.partition("/")
        library = Path(slash + rest)
        if library.name.startswith("libcuda.so") and (library.parent / "libcuda.so.1").exists():
            os.environ["TRITON_LIBCUDA_PATH"] = str(library.parent)
            return
