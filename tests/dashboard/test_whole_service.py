"""The dashboard with the whole service: a real training on a private Ray, while its API is killed."""

import asyncio
import hashlib
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from playwright.async_api import expect

from service.client import Client
from service.local.supervisor import Supervisor
from service.settings import Settings

pytestmark = [pytest.mark.anyio, pytest.mark.ray, pytest.mark.faults]

PATIENCE_MS = 120_000
JOB = {
    "name": "small and real",
    "batch_size": "16",
    "normalization.type": "group",
    "epochs": "12",
    "dataset.name": "synthetic",
    "dataset.train_limit": "256",
    "dataset.test_limit": "100",
}


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(Settings(home=tmp_path / "home", data_dir=tmp_path / "data", port=0)) as supervisor:
        supervisor.wait_ready()
        yield supervisor


@pytest.fixture
def api(supervisor: Supervisor) -> Supervisor:
    """The address of the service, as a visit reads it."""
    return supervisor


async def test_a_job_is_submitted_watched_through_the_death_of_the_api_and_its_weights_are_taken(
    start_visit: Callable[..., Any], supervisor: Supervisor, tmp_path: Path
) -> None:
    visit = await start_visit()
    page = await visit.open(f"/new?{urlencode(JOB)}")
    await page.get_by_role("button", name="Submit the job").click()
    await page.wait_for_url(re.compile("/jobs/job_"))
    heading = page.locator(".heading")
    await expect(heading).to_contain_text("running", timeout=PATIENCE_MS)
    await expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=PATIENCE_MS)

    os.kill(supervisor.pids["api"], signal.SIGKILL)
    await expect(page.get_by_text("Updates stopped")).to_be_visible()
    await expect(page.get_by_text("Updates stopped")).to_have_count(0, timeout=PATIENCE_MS)
    await expect(heading).to_contain_text("succeeded", timeout=PATIENCE_MS)

    job = page.url.rpartition("/")[2]
    await page.get_by_role("button", name="Show as table").first.click()
    shown = page.get_by_role("region", name="error (%) by epoch")
    with Client(supervisor.url) as client:
        rows = await asyncio.to_thread(lambda: list(client.metrics(job, kind="eval")))
        best = await asyncio.to_thread(client.checkpoint, (job, "best"))
    for row in rows:
        await expect(shown).to_contain_text(f"{100 * row['test_error']:.2f} %")

    await page.get_by_role("link", name="Checkpoints", exact=True).click()
    name = f"Download model.safetensors of step {best['step']}"
    async with page.expect_download() as started:
        await page.get_by_role("link", name=name).click()
    await (await started.value).save_as(tmp_path / "weights")
    sha256 = next(file["sha256"] for file in best["files"] if file["name"] == "model.safetensors")
    assert hashlib.sha256((tmp_path / "weights").read_bytes()).hexdigest() == sha256
