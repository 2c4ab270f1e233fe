"""Whether Triton can compile and launch kernels in this process."""

import subprocess
from functools import cache
from importlib.util import find_spec

__all__ = ["failure"]


@cache
def failure() -> str | None:
    """Return why the CUDA kernels cannot run on this machine, None if they can.

    Triton compiles its launcher with a C compiler and the headers of Python when its driver is first used. The result
    is cached, so that a machine without them tries once per process.
    """
    if find_spec("triton") is None:
        return "Triton is not installed"
    from triton.runtime import driver

    try:
        _ = driver.active.utils
    except subprocess.CalledProcessError as error:
        return f"Triton cannot compile its launcher: {error.cmd[0]} failed; are the headers of Python installed?"
    except (AssertionError, ImportError, OSError, RuntimeError) as error:
        return f"Triton cannot launch kernels: {error}"
    return None
