"""Services of the acceptance tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.acceptance.whole_service import Service, running_service


@pytest.fixture(scope="module")
def start_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Service]]:
    """Return a function that starts a separate service: `start_service(cpus_per_worker=2)`."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Service:
            return stack.enter_context(running_service(tmp_path_factory.mktemp("home"), **settings))

        yield start
