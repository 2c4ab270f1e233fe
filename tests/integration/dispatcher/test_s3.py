"""Checkpoints on S3: a job survives an outage of the store, while it trains and before it resumes."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.jobs import Status
from tests.integration.dispatcher.conftest import SMALL
from tests.s3 import S3Server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.ray,
    pytest.mark.parametrize("stack", [{"ARTIFACTS_URL": "s3://normlab/checkpoints"}], indirect=True),
]


@pytest.fixture
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        server.make_bucket("normlab")
        yield server
        server.filesystem().rm("normlab", recursive=True)


@pytest.fixture
def ray_environment(ray_environment: dict[str, str], s3_server: S3Server, tmp_path: Path) -> dict[str, str]:
    return ray_environment | s3_server.environment(tmp_path)


async def said(stack: Any, sentence: str) -> None:
    async def there() -> bool | None:
        return sentence in stack.log() or None

    await stack.until(there, f"the dispatcher to say: {sentence}")


@pytest.mark.faults
async def test_an_outage_of_the_store_only_delays_a_job(stack: Any, s3_server: S3Server) -> None:
    # Long enough not to end during the outage.
    job_id = await stack.submit(epochs=12, batch_size=32, dataset=SMALL | {"train_limit": 256})
    await stack.wait_for_step(job_id, 9)
    s3_server.stop()
    await said(stack, "not recorded, will try again")
    s3_server.start()
    await stack.wait_for_step(job_id, 25)
    await stack.pause(job_id)

    s3_server.stop()
    await stack.resume(job_id)
    await said(stack, "not resumed, will try again")
    s3_server.start()
    assert (await stack.wait(job_id)).status is Status.SUCCEEDED

    assert [attempt.outcome for attempt in await stack.attempts(job_id)] == ["paused", "succeeded"]
    rows = Counter((row.kind, row.step) for row in await stack.rows(job_id))
    assert set(rows.values()) == {1}
    assert [row.epoch for row in await stack.rows(job_id, "eval")] == list(range(1, 13))
    objects = s3_server.filesystem()
    for checkpoint in await stack.checkpoints(job_id):
        folder = f"normlab/checkpoints/{job_id}/{checkpoint.id}"
        for name, file in checkpoint.files.items():
            assert hashlib.sha256(objects.cat_file(f"{folder}/{name}")).hexdigest() == file["sha256"]
    kept = {path.split("/")[-2] for path in objects.find(f"normlab/checkpoints/{job_id}")}
    assert kept == {checkpoint.id for checkpoint in await stack.checkpoints(job_id)}
