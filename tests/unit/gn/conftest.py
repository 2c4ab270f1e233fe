"""Fixtures of the GroupNorm's tests."""

from collections.abc import Iterator

import pytest

from gn import backends
from gn.cpu import loader


@pytest.fixture(scope="session", autouse=True)
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for the session: compiling takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GN_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        loader.library.cache_clear()
        yield
    loader.library.cache_clear()


@pytest.fixture(params=backends.BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """What follows holds of the kernels and of the reference."""
    with backends.backend(request.param):
        yield request.param
