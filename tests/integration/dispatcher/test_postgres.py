"""The dispatcher on PostgreSQL."""

import os
import signal
from collections import Counter
from typing import Any

import pytest

from service.jobs import Status

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.ray,
    pytest.mark.postgres,
    pytest.mark.faults,
    pytest.mark.parametrize("database_url", ["postgres"], indirect=True),
]


@pytest.fixture
def stack_url(database_url: str) -> str:
    return database_url


async def test_a_job_survives_its_worker_and_its_dispatcher_and_another_is_cancelled(stack: Any) -> None:
    job_id = await stack.submit(epochs=5)
    cancelled = await stack.submit(epochs=200)
    training = await stack.training_process(job_id)
    await stack.wait_for_step(job_id, 9)
    os.kill(training, signal.SIGKILL)
    stack.dispatchers[0].kill()
    stack.start_dispatcher()
    await stack.wait_for_step(cancelled, 9)
    await stack.cancel(cancelled)

    assert (await stack.wait(job_id)).status is Status.SUCCEEDED
    assert (await stack.wait(cancelled)).status is Status.CANCELLED
    rows = Counter((row.kind, row.step) for row in await stack.rows(job_id))
    assert set(rows.values()) == {1}
    assert [row.epoch for row in await stack.rows(job_id, kind="eval")] == [1, 2, 3, 4, 5]
