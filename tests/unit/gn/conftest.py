"""Fixtures of the GroupNorm's tests."""

import os
from collections.abc import Iterator

import pytest
import torch

from gn import backends
from gn.cpu import extension, loader

if not torch.cuda.is_available():
    # Read when triton is first imported, so too late in a fixture: test_cuda.py runs its kernels without a GPU.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all processes of the session, with the extension in it: compiling takes seconds."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GN_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "kernels"))
        loader.library.cache_clear()
        extension.build()
        yield
    loader.library.cache_clear()


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test draws the same numbers on every run."""
    torch.manual_seed(0)


@pytest.fixture(params=backends.NAMES)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs with every backend."""
    with backends.backend(request.param):
        yield request.param
