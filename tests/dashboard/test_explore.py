"""The page that shows jobs as points and as lines."""

from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.dashboard.conftest import Visit
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def test_jobs_are_points_and_lines_of_any_two_quantities(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for normalization, batch_size, error in (("batch", 2, 0.5), ("batch", 8, 0.25), ("group", 2, 0.375)):
        submit(normalization, batch_size, name=f"{normalization} {batch_size}", epochs=1)
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    submit("layer", 4)
    page = await visit.open("/jobs")
    await page.get_by_role("link", name="Explore").click()

    series_of = "document.querySelector('[data-chart=scatter]')?.drawn?.series"
    await page.wait_for_function(f"() => {series_of}?.length === 2")
    series = dict(await page.evaluate(f"() => {series_of}.map((one) => [one.name, one.points])"))
    assert [(point["x"], point["y"]) for point in series["batch"]] == [(8, 25.0), (2, 50.0)]
    assert [point["label"] for point in series["group (8)"]] == ["group 2"]
    lines = page.get_by_role("img", name="4 jobs by")
    await expect(lines.locator("path.job")).to_have_count(4)
    await expect(lines.locator(".axis .name").last).to_contain_text("last test error")

    await page.get_by_role("button", name="batch", exact=True).click()
    await expect(page.get_by_role("img", name="2 jobs by").locator("path.job")).to_have_count(2)
    await page.get_by_label("Horizontal axis").select_option("test_error best")
    await page.get_by_label("Colour").select_option("batch_size")
    await expect(page.get_by_role("heading", name="Last test error (%) by best test error (%)")).to_be_visible()
    axes = await page.locator(".parallel .axis").count()
    await page.get_by_text("Lines through").click()
    for name in ("batch size", "normalization"):
        await page.get_by_role("checkbox", name=name, exact=True).uncheck()
    await expect(page.locator(".parallel .axis")).to_have_count(axes - 2)
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await expect(copied.get_by_label("Colour")).to_have_value("batch_size")
    await expect(copied.locator(".parallel .axis")).to_have_count(axes - 2)
    nothing = await visit.open("/explore?axes=seed")
    await expect(nothing.get_by_text("Choose two or more quantities")).to_be_visible()


async def test_a_filter_without_jobs_leads_back(visit: Visit) -> None:
    page = await visit.open("/explore?normalization=instance")
    await expect(page.get_by_text("No jobs match this filter")).to_be_visible()
    await page.get_by_role("link", name="Jobs", exact=True).last.click()
    await expect(page).to_have_url(f"{visit.api.url}/jobs?normalization=instance")
