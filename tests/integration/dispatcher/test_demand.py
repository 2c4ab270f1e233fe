"""Queued jobs are visible to Ray's autoscaler as demand, which disappears when the queue is empty."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest

from service.jobs import Status
from tests.integration.dispatcher.conftest import CPUS

pytestmark = [pytest.mark.anyio, pytest.mark.ray]

DEMAND = """
import json, os, sys
from ray._raylet import GcsClient
from ray.autoscaler.v2.sdk import get_cluster_resource_state
state = get_cluster_resource_state(GcsClient(address=os.environ["NORMLAB_RAY_ADDRESS"]))
print(json.dumps([[dict(demand.request.resources_bundle), demand.count] for demand in state.pending_resource_requests]))
"""
MAX_WORKERS = 5


async def demand(stack: Any) -> int:
    """Return the number of workers for which Ray's autoscaler sees demand."""
    program = [sys.executable, "-c", DEMAND]
    done = await asyncio.to_thread(
        subprocess.run, program, env=stack.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    asked = json.loads(done.stdout.splitlines()[-1])
    assert all(resources.get("CPU") == 1 for resources, _ in asked), asked
    return sum(count for _, count in asked)


async def until_demand_is(stack: Any, expected: int) -> None:
    async def there() -> bool | None:
        return True if await demand(stack) == expected else None

    await stack.until(there, f"a demand of {expected} workers")


@pytest.mark.parametrize("stack", [{"MAX_WORKERS": MAX_WORKERS}], indirect=True)
async def test_workers_that_there_is_no_room_for_are_asked_of_the_autoscaler_while_jobs_wait(stack: Any) -> None:
    running = [await stack.submit(epochs=200) for _ in range(CPUS)]
    for job_id in running:
        await stack.wait(job_id, Status.RUNNING)
    assert await demand(stack) == 0
    waiting = [await stack.submit(num_workers=2, batch_size=16), await stack.submit(), await stack.submit()]
    await until_demand_is(stack, MAX_WORKERS - CPUS)

    await stack.cancel(*waiting)
    await until_demand_is(stack, 0)
    await stack.cancel(*running)
    for job_id in running:
        await stack.wait(job_id)


async def test_otherwise_no_more_is_asked_for_than_there_is_room_for(stack: Any) -> None:
    large = await stack.submit(num_workers=CPUS + 1, batch_size=8)
    await stack.wait(await stack.submit(epochs=1))

    assert await demand(stack) == 0
    assert (await stack.job(large)).status is Status.QUEUED
