"""Charts of one page with the same horizontal axis: pointed at together, zoomed together."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from tests.dashboard.conftest import Visit
from tests.dashboard.test_curves import experiment as experiment
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


@pytest.fixture
async def page(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> Page:
    """The page of a job with several charts over a hundred steps."""
    job = submit(epochs=10)
    await reporter.start()
    for epoch in range(1, 11):
        await reporter.metrics("train", epoch, 10 * epoch - 5, train_loss=2 / epoch, train_error=0.5 / epoch)
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.6 / epoch, test_loss=3 / epoch)
    await reporter.finish()
    return await visit.open(f"/jobs/{job}?x=step")


async def drawn(page: Page, at_least: int = 2) -> Locator:
    """Return the charts, once they are drawn."""
    charts = page.locator("[data-chart]")
    await page.wait_for_function(
        f"() => [...document.querySelectorAll('[data-chart]')].filter(({{ scale }}) => scale).length >= {at_least}"
    )
    return charts


async def ranges(page: Page) -> list[list[float]]:
    """Return the horizontal range of each chart that plotly.js has drawn."""
    found: list[list[float]] = await page.evaluate(
        "() => [...document.querySelectorAll('[data-chart]')].filter(({ scale }) => scale)"
        ".map(({ layout }) => layout.xaxis.range)"
    )
    return found


async def drag(page: Page, chart: Locator, low: float, high: float) -> None:
    """Drag over a chart from one value of x to another."""
    box = await chart.bounding_box()
    assert box is not None
    left, right = await chart.evaluate("(one, range) => range.map((x) => one.scale.toPixels(x))", [low, high])
    y = box["y"] + box["height"] / 3
    await page.mouse.move(box["x"] + left, y)
    await page.mouse.down()
    await page.mouse.move(box["x"] + right, y, steps=5)
    await page.mouse.up()


async def test_pointing_at_a_chart_shows_the_same_place_in_the_others(page: Page) -> None:
    charts = await drawn(page)
    first, second = charts.nth(0), charts.nth(1)
    await first.scroll_into_view_if_needed()
    box: Any = await first.bounding_box()
    at = await first.evaluate("(one) => one.scale.toPixels(40)")
    await page.mouse.move(box["x"] + at, box["y"] + box["height"] / 2)
    cursor = second.locator(".cursor")
    await expect(cursor).to_be_visible()
    await expect(cursor).to_have_text("40")
    place = await second.evaluate("(one) => [one.scale.toPixels(40), one.querySelector('.cursor').offsetLeft]")
    assert abs(place[0] - place[1]) < 2
    await expect(first.locator(".cursor")).to_be_hidden()
    await page.mouse.move(2, 2)
    await expect(cursor).to_be_hidden()


async def test_a_zoom_is_that_of_all_charts_and_of_the_address_until_it_is_reset(page: Page, visit: Visit) -> None:
    charts = await drawn(page)
    await charts.nth(0).scroll_into_view_if_needed()
    whole = await ranges(page)
    await drag(page, charts.nth(0), 30, 60)
    reset = page.get_by_role("button", name="Reset zoom")
    await expect(reset.first).to_be_visible()
    zoomed = (
        "() => [...document.querySelectorAll('[data-chart]')].filter(({ scale }) => scale)"
        ".every(({ layout: { xaxis } }) => Math.abs(xaxis.range[0] - 30) < 1 && Math.abs(xaxis.range[1] - 60) < 1)"
    )
    await page.wait_for_function(zoomed)
    assert "zoom=" in page.url
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await drawn(copied)
    await copied.wait_for_function(zoomed)
    await reset.first.focus()
    await page.keyboard.press("Enter")
    await expect(reset).to_have_count(0)
    assert "zoom=" not in page.url
    await page.wait_for_function(
        "(most) => [...document.querySelectorAll('[data-chart]')].filter(({ scale }) => scale)"
        ".every(({ layout }) => layout.xaxis.range[1] > most)",
        arg=min(high for _, high in whole) - 5,
    )


async def test_a_zoom_of_another_axis_does_not_apply(page: Page) -> None:
    await drawn(page)
    await page.goto(f"{page.url}&zoom=1,2,epoch")
    await drawn(page)
    await expect(page.get_by_role("button", name="Reset zoom")).to_have_count(0)


async def test_curves_on_a_canvas_are_zoomed_by_a_drag_and_reset_by_a_double_click(
    visit: Visit, experiment: str
) -> None:
    page = await visit.open(f"/experiments/{experiment}?seeds=each")
    chart = page.locator("[data-chart=cells]")
    await chart.scroll_into_view_if_needed()
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').scale")
    await drag(page, chart, 1.2, 1.8)
    await expect(page.get_by_role("button", name="Reset zoom")).to_be_visible()
    await page.wait_for_function(
        "() => Math.abs(document.querySelector('[data-chart=cells]').scale.toValue(56) - 1.2) < 0.05"
    )
    # Between two epochs there are lines and no points.
    assert await chart.evaluate("(one) => one.place.y(60) > 0 && one.place.y(60) < one.clientHeight - 42")
    await chart.dblclick(position={"x": 200, "y": 100})
    await expect(page.get_by_role("button", name="Reset zoom")).to_have_count(0)
