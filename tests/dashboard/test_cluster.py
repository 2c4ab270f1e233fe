"""The page of the cluster: nodes, workers and the queue."""

from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.dashboard.conftest import Visit
from tests.dashboard.pages import report
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def test_it_says_what_runs_where(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    submit(name="at work")
    job = await reporter.start()
    submit(name="waits")
    await reporter.heartbeat(report(job))
    page = await visit.open("/cluster")
    await expect(page.get_by_role("img", name="1 of 2 slots busy")).to_be_visible()
    worker = page.get_by_role("region", name="Workers").get_by_role("row").filter(has_text="worker-1")
    await expect(worker.get_by_role("link", name="at work")).to_have_attribute("href", f"/jobs/{job}")
    await expect(page.get_by_role("region", name="Nodes")).to_contain_text("10.0.0.1")
    await expect(page.get_by_role("status", name="").filter(has_text="away")).to_have_count(0)


async def test_it_says_when_nobody_dispatches_and_that_jobs_still_queue(visit: Visit) -> None:
    page = await visit.open("/cluster")
    await expect(page.get_by_role("main")).to_contain_text("No dispatcher has been started")
    await expect(page.get_by_role("main")).to_contain_text("stay in the queue")
    await expect(page.get_by_role("link", name="Jobs wait")).to_be_visible()


async def test_it_says_that_the_dispatcher_went_and_when_it_is_back(visit: Visit, reporter: Reporter) -> None:
    await reporter.heartbeat(report(), age_s=300)
    page = await visit.open("/cluster")
    await expect(page.get_by_role("main")).to_contain_text("The dispatcher is away")
    await expect(page.get_by_role("main")).to_contain_text("5 min ago")
    await reporter.heartbeat(report())
    await expect(page.get_by_role("main")).not_to_contain_text("The dispatcher is away")


async def test_it_says_that_ray_is_away(visit: Visit, reporter: Reporter) -> None:
    await reporter.heartbeat(report(ray="unreachable"))
    page = await visit.open("/cluster")
    await expect(page.get_by_role("main")).to_contain_text("Ray cannot be reached")


async def test_it_says_what_waits_for_several_workers(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(num_workers=2)
    submit(num_workers=8)
    await reporter.heartbeat(report() | {"next_up": {"job": job, "num_workers": 2}})
    page = await visit.open("/cluster")
    await expect(page.get_by_text("A job of 2 workers is next")).to_be_visible()
    await expect(page.get_by_role("link", name="A job")).to_have_attribute("href", f"/jobs/{job}")
    await expect(page.get_by_text("1 queued job needs more workers than there are slots")).to_be_visible()


async def test_it_says_what_checkpoints_take(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    submit(name="small")
    small = await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x" * 1500})
    submit(name="large")
    large = await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x" * 4500})
    await reporter.heartbeat(report(large))
    page = await visit.open("/cluster")
    card = page.locator(".card", has=page.get_by_role("heading", name="Storage", exact=True))
    await expect(card).to_contain_text("6.0 kB")
    rows = page.get_by_role("region", name="Storage by job").locator("tbody tr")
    await expect(rows).to_have_text(["large14.5 kB", "small11.5 kB"])
    await expect(rows.get_by_role("link", name="small")).to_have_attribute("href", f"/jobs/{small}")
    experiments = page.get_by_role("region", name="Storage by experiment").locator("tbody tr")
    await expect(experiments).to_have_text(["Jobs without an experiment226.0 kB"])
