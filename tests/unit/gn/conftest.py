"""Fixtures of the tests of gn."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress

import pytest
import torch

from gn import backends
from gn.cpu import builder, extension, loader

if not torch.cuda.is_available():
    # triton reads this when it is first imported, so a fixture would be too late. test_cuda.py then needs no GPU.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache with the compiled extension for all processes of the session, because compiling takes minutes.

    It begins as a copy of the user's cache, whose libraries are used if they were built from the same sources.
    """
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"
    if not cache.exists() and builder.cache_directory().exists():
        copy = shutil.copytree(builder.cache_directory(), tmp_path_factory.mktemp("cache") / "kernels")
        with suppress(OSError):  # another process of the session was faster
            copy.rename(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GN_CACHE_DIR", str(cache))
        loader.library.cache_clear()
        extension.build()
        yield
    loader.library.cache_clear()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Seed the random numbers of every test."""
    torch.manual_seed(0)


@pytest.fixture(params=backends.NAMES)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with every backend."""
    with backends.backend(request.param):
        yield request.param
