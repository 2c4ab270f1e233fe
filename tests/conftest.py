"""Fixtures of the whole suite."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Every asynchronous test runs on asyncio, as the product does."""
    return "asyncio"
