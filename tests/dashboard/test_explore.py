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
    await page.get_by_label("Horizontal axis").select_option("test_error.best")
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


async def test_labels_are_axes_and_colours_and_the_images_are_named(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for arm, error in (("b10", 0.5), ("b9", 0.25)):
        submit(name=arm, epochs=1, labels={"arm": arm}, dataset={"name": "synthetic"})
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    page = await visit.open("/explore?x=labels.arm&by=labels.arm&axes=labels.arm,test_error")
    drawn = "document.querySelector('[data-chart=scatter]')?.drawn"
    await page.wait_for_function(f"() => {drawn}?.series.length === 2")
    assert await page.evaluate(f"() => {drawn}.axes.categories") == ["b9", "b10"]
    points = await page.evaluate(f"() => {drawn}.series.map((one) => [one.name, one.points[0].x, one.points[0].y])")
    assert points == [["b9", "b9", 25.0], ["b10", "b10", 50.0]]
    for card in (page.locator(".card").filter(has_text="a point a job"), page.locator(".card").filter(has_text="gap")):
        await expect(card.locator("header")).to_contain_text("images: synthetic")
    await page.get_by_label("Vertical axis").select_option("labels.arm")
    await page.wait_for_function(f"() => {drawn}.axes.categoriesY?.length === 2")
    await expect(page.locator("[data-chart=scatter] .ytick")).to_have_count(2)


async def test_a_job_that_is_pointed_at_or_picked_is_shown_in_both_drawings(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    ids = [submit(name=name, batch_size=size, epochs=1) for name, size in (("one", 2), ("two", 8))]
    for error in (0.5, 0.25):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    page = await visit.open("/explore?axes=batch_size,test_error")
    points = page.locator("[data-chart=scatter] .points path")
    await expect(points).to_have_count(2)
    first = page.locator(f".parallel .job[data-job={ids[0]}]")
    await first.dispatch_event("pointerenter")
    await expect(page.locator("[data-chart=scatter] .points .pointed")).to_have_count(1)
    await first.dispatch_event("pointerleave")
    await expect(page.locator(".pointed")).to_have_count(0)
    # The jobs are listed newest first, so the last point is that of the first job.
    box = await points.last.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await expect(page.locator(f".parallel .pointed[data-job={ids[0]}]")).to_have_count(1)
    await page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    picked = page.get_by_role("region", name="Picked jobs")
    await expect(picked.get_by_role("link", name="one")).to_be_visible()
    await expect(page.locator(".parallel .picked")).to_have_attribute("data-job", ids[0])
    await expect(page.locator("[data-chart=scatter] .points .behind")).to_have_count(1)
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await copied.locator(f".parallel .job[data-job={ids[1]}]").dispatch_event("click")
    await copied.get_by_role("link", name="Compare").click()
    await expect(copied).to_have_url(f"{visit.api.url}/compare?jobs={ids[0]},{ids[1]}")


async def test_a_filter_without_jobs_leads_back(visit: Visit) -> None:
    page = await visit.open("/explore?normalization=instance")
    await expect(page.get_by_text("No jobs match this filter")).to_be_visible()
    await page.get_by_role("link", name="Jobs", exact=True).last.click()
    await expect(page).to_have_url(f"{visit.api.url}/jobs?normalization=instance")
