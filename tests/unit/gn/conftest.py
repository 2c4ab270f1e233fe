"""Fixtures of the tests of gn."""

import os
from collections.abc import Iterator

import pytest
import torch

from gn import backends
from gn.cpu import extension, loader

if not torch.cuda.is_available():
    # triton reads this when it is first imported, so a fixture would be too late. test_cuda.py then needs no GPU.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache with the compiled extension for all processes of the session, because compiling takes seconds."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GN_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"))
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
