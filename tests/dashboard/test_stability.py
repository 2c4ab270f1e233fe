"""The layout does not shift, and input, focus and scroll position are kept while data arrives."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import Visit
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

WATCH = """
    window.shifts = [];
    new PerformanceObserver((list) => window.shifts.push(...list.getEntries().map((entry) => entry.value)))
        .observe({ type: 'layout-shift', buffered: true });
"""
ACCEPTED = 0.02
"""Accepted cumulative layout shift; values below 0.1 count as good (Web Vitals)."""


async def moved(page: Page) -> float:
    await page.evaluate("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    total: float = await page.evaluate("window.shifts.reduce((sum, value) => sum + value, 0)")
    return total


@pytest.fixture
async def watched(start_visit: Callable[..., Any]) -> Visit:
    visit: Visit = await start_visit()
    await visit.context.add_init_script(WATCH)
    return visit


async def test_the_table_of_jobs_stands_still(watched: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    for n in range(8):
        submit(name=f"job {n}", epochs=10)
    page = await watched.open("/jobs")
    await expect(page.locator("tbody a")).to_have_count(8)
    await reporter.start()
    for epoch in (1, 2):
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
    await expect(page.get_by_role("main")).to_contain_text("25.00 %")
    assert await moved(page) < ACCEPTED


async def test_the_page_of_a_job_stands_still(watched: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    job = submit(epochs=10)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, test_loss=1.0)
    page = await watched.open(f"/jobs/{job}")
    await expect(page.locator(".js-plotly-plot").first).to_be_visible()
    await reporter.progress(15, images_per_s=100.0, train_loss=0.5)
    await reporter.metrics("eval", 2, 20, test_error=0.25, test_loss=0.5)
    await expect(page.get_by_label("Progress", exact=True)).to_contain_text("25.00 %")
    assert await moved(page) < ACCEPTED


async def test_what_is_typed_and_focused_stays_while_data_arrives(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="one", epochs=10)
    page = await visit.open("/jobs")
    await expect(page.locator("tbody a")).to_have_count(1)
    search = page.get_by_role("searchbox")
    await search.focus()
    await page.keyboard.type("o")
    await reporter.start()
    await expect(page.locator("tbody")).to_contain_text("running")
    await page.keyboard.type("ne")
    await expect(search).to_have_value("one")
    await expect(search).to_be_focused()
    await expect(page).to_have_url(f"{visit.api.url}/jobs?search=one")


async def test_a_menu_stays_open_while_data_arrives_and_closes_by_escape(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="one", epochs=10)
    page = await visit.open("/jobs")
    menu = page.locator("summary", has_text="Columns")
    await menu.click()
    await reporter.start()
    await expect(page.locator("tbody")).to_contain_text("running")
    await expect(page.get_by_role("checkbox", name="Epochs")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("checkbox", name="Epochs")).to_be_hidden()
    await expect(menu).to_be_focused()


async def test_a_log_that_is_read_further_up_is_not_scrolled_away(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit()
    await reporter.start()
    for n in range(80):
        await reporter.log(f"line {n}")
    page = await visit.open(f"/jobs/{job}?tab=logs")
    log = page.get_by_role("log")
    await expect(log.get_by_text("line 79", exact=True)).to_be_in_viewport()
    await page.get_by_label("Follow").uncheck()
    await log.evaluate("element => { element.scrollTop = 0 }")
    await reporter.log("the newest")
    await expect(log.get_by_text("the newest")).to_be_attached()
    assert await log.evaluate("element => element.scrollTop") == 0
    await page.get_by_label("Follow").check()
    await expect(log.get_by_text("the newest")).to_be_in_viewport()
