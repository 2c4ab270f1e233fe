"""Charts with many curves: on one canvas, live, each curve distinguishable."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from playwright.async_api import Locator, Page, expect

from tests.dashboard.conftest import Visit, held_until
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

GRID = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [4, 8], "seed": [0, 1, 2, 3]}
BASE = {"epochs": 10, "dataset": {"name": "synthetic", "train_limit": 80}}


@pytest.fixture
async def experiment(visit: Visit, reporter: Reporter) -> str:
    """An experiment of sixteen jobs with two epochs each; the last job is still running."""
    answer = httpx2.post(f"{visit.api.url}/v1/experiments", json={"name": "many", "base": BASE, "grid": GRID})
    id_: str = answer.json()["id"]
    for number in range(16):
        await reporter.start()
        for epoch in (1, 2):
            await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.9 / epoch - number / 100)
        if number < 15:
            await reporter.finish()
    return id_


async def drawn(page: Page) -> list[list[float]]:
    """Return the values of every line of the chart."""
    found: list[list[float]] = await page.evaluate(
        "document.querySelector('[data-chart=cells]').drawn.series.map(({ points }) => points.map(({ y }) => y))"
    )
    return found


async def ink(page: Page, layer: int) -> int:
    """Return the number of pixels that are drawn on a layer of the chart."""
    count: int = await page.evaluate(
        """(layer) => {
            const canvas = document.querySelectorAll("[data-chart=cells] canvas")[layer];
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return data.filter((value, n) => n % 4 === 3 && value > 0).length;
        }""",
        layer,
    )
    return count


async def test_a_page_is_used_before_its_charts_are_loaded(visit: Visit, experiment: str) -> None:
    arrived = asyncio.Event()
    await visit.context.route("**/vendor/plotly*", held_until(arrived))
    page = await visit.open(f"/experiments/{experiment}")
    # The text is drawn by the style sheet, so that it is no part of the chart.
    loading = page.locator("[data-waiting='Loading the chart…']")
    await expect(loading.first).to_be_visible()
    drawn_text = await loading.first.evaluate("one => getComputedStyle(one, '::after').content")
    assert drawn_text == '"Loading the chart…"'
    cell = page.get_by_role("region", name="Results", exact=True).get_by_role("button").first
    await cell.click()
    await expect(page.get_by_role("region", name="Jobs of the chosen cells")).to_be_visible()
    arrived.set()
    await expect(page.locator(".main-svg").first).to_be_visible()
    await expect(loading).to_have_count(0)


async def test_every_seed_has_a_line_that_grows_and_can_be_singled_out(
    visit: Visit, reporter: Reporter, experiment: str
) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Learning curves"))
    await card.scroll_into_view_if_needed()
    await expect(card.locator(".js-plotly-plot")).to_be_visible()
    await card.get_by_role("button", name="Every seed").click()
    await expect(card.locator("canvas")).to_have_count(2)
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').drawn.series.length === 16")
    await reporter.metrics("eval", 3, 30, test_error=0.125)
    await page.wait_for_function(
        "() => document.querySelector('[data-chart=cells]').drawn.series.some(({ points }) => points.length === 3)"
    )
    assert sorted(await drawn(page), key=len)[-1] == [pytest.approx(75.0), pytest.approx(30.0), 12.5]
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').place")
    assert await ink(page, 0) > 1000
    assert await ink(page, 1) == 0

    await card.get_by_role("button", name="batch at 4").hover()
    assert await ink(page, 1) > 100
    await card.get_by_role("heading").hover()
    assert await ink(page, 1) == 0
    await card.get_by_role("button", name="batch at 4").focus()
    assert await ink(page, 1) > 100
    await card.get_by_role("button", name="group (8) at 8").click()
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').drawn.series.length === 12")

    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await copied.wait_for_function("() => document.querySelector('[data-chart=cells]')?.drawn?.series.length === 12")


async def test_the_band_may_be_the_interval_of_the_mean(visit: Visit, experiment: str) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Learning curves"))
    await card.get_by_role("button", name="Mean and 95 % interval").click()
    await expect(card).to_contain_text("its 95 % interval at each point")
    await expect(page).to_have_url(re.compile(r"[?&]seeds=interval"))
    await expect(card.locator(".js-plotly-plot")).to_be_visible()


async def test_a_point_says_whose_it_is_and_what_is_drawn_is_kept(visit: Visit, experiment: str) -> None:
    page = await visit.open(f"/experiments/{experiment}?seeds=each")
    card = page.locator(".card", has=page.get_by_role("heading", name="Learning curves"))
    await page.wait_for_function(
        "() => document.querySelector('[data-chart=cells]')?.drawn?.series.every(({ points }) => points.length)"
    )
    drawing = card.get_by_role("figure")
    await drawing.scroll_into_view_if_needed()
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').place")
    x, y = await page.evaluate("""() => {
        const { place, drawn } = document.querySelector("[data-chart=cells]");
        const { x, y } = drawn.series[0].points[1];
        return [place.x(x), place.y(y)];
    }""")
    await drawing.hover(position={"x": x, "y": y})
    await expect(card.locator(".tip")).to_have_text("batch at 4, seed 0: 45.00 % at 1")
    async with page.expect_download() as started:
        await card.locator("summary", has_text="Export").click()
        await card.get_by_role("button", name="CSV of what is drawn").click()
    lines = (await (await started.value).path()).read_text().splitlines()
    assert len(lines) > 12
    assert lines[1].startswith("batch at 4,")
    await card.get_by_role("button", name="Show as table").click()
    await expect(card.get_by_role("region").locator("tbody tr")).to_have_count(3)


async def test_a_curve_of_a_chart_stands_out_while_it_is_pointed_at_elsewhere(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    jobs = [submit(name=name, dataset=BASE["dataset"], epochs=10) for name in ("one", "two", "three")]
    for _ in jobs:
        await reporter.start()
        for epoch in (1, 2):
            await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
    page = await visit.open(f"/compare?jobs={','.join(jobs)}")
    traces = page.locator(".js-plotly-plot .scatterlayer .trace")
    await expect(traces).to_have_count(3)
    await page.get_by_role("columnheader", name="two").first.hover()
    classes: Any = await traces.evaluate_all("all => all.map((one) => one.classList.contains('behind'))")
    assert classes == [True, False, True]
    await page.get_by_role("heading", name="Compare", exact=True).hover()
    await expect(page.locator(".trace.behind")).to_have_count(0)


async def styles(lines: Locator) -> list[tuple[str, list[str]]]:
    """Return the colour and the dashes of each line."""
    found = await lines.evaluate_all(
        "all => all.map((line) => getComputedStyle(line)).map((s) => [s.stroke, s.strokeDasharray])"
    )
    return [(colour, re.findall(r"[\d.]+", dashes)) for colour, dashes in found]


async def test_the_legend_has_the_lines_of_the_chart(visit: Visit, reporter: Reporter) -> None:
    group = {"type": "group", "num_groups": 4, "eps": 1e-7}
    grid = {"normalization": [{"type": "batch"}, group], "batch_size": [2, 4, 8, 16, 32, 40]}
    answer = httpx2.post(f"{visit.api.url}/v1/experiments", json={"base": BASE, "grid": grid | {"seed": [0, 1]}})
    for _ in range(24):
        await reporter.start()
        for epoch in (1, 2):
            await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
        await reporter.finish()
    await visit.context.add_init_script("""
        const { setLineDash } = CanvasRenderingContext2D.prototype;
        window.dashes = new Set();
        CanvasRenderingContext2D.prototype.setLineDash = function (dashes) {
            window.dashes.add(dashes.map(String).join());
            setLineDash.call(this, dashes);
        };
    """)
    page = await visit.open(f"/experiments/{answer.json()['id']}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Learning curves"))
    await card.scroll_into_view_if_needed()
    lines = card.locator(".scatterlayer path.js-line:not([style*='stroke-width: 0'])")
    await expect(lines).to_have_count(12)
    legend = await styles(card.locator(".legend .swatch .line"))
    assert await styles(lines) == legend
    assert len({*map(str, legend)}) == 10, "the sixth column repeats the dashes of the first"
    await card.get_by_role("button", name="Every seed").click()
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]')?.place")
    assert await page.evaluate("[...window.dashes].sort()") == sorted({",".join(dashes) for _, dashes in legend})

    entry = card.get_by_role("button", name="group (4, eps 1e-07) at 4", exact=True)
    await entry.click()
    await expect(entry).to_have_attribute("aria-pressed", "false")
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').drawn.series.length === 22")
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await copied.wait_for_function("() => document.querySelector('[data-chart=cells]')?.drawn?.series.length === 22")
    await entry.click()
    await page.wait_for_function("() => document.querySelector('[data-chart=cells]').drawn.series.length === 24")


async def test_every_kind_of_marker_has_a_swatch(visit: Visit, reporter: Reporter) -> None:
    grid: Any = {
        "normalization": [{"type": "group", "num_groups": groups} for groups in (1, 2, 4, 8, 16)],
        "batch_size": [4],
    }
    grid["normalization"].append({"type": "batch"})
    answer = httpx2.post(f"{visit.api.url}/v1/experiments", json={"base": BASE, "grid": grid})
    for _ in range(6):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        await reporter.finish()
    page = await visit.open(f"/experiments/{answer.json()['id']}")
    figure = page.locator("section", has=page.locator("[data-chart=figure]"))
    await expect(figure.locator(".scatterlayer .points path")).to_have_count(6)
    shapes = await figure.locator(".legend .marker").evaluate_all("all => all.map((one) => one.getAttribute('d'))")
    assert len(set(shapes)) == 6


async def test_a_chart_says_that_it_is_being_loaded_and_is_tried_again(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(name="one")
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await visit.context.route("**/vendor/**", lambda route: route.abort())
    page = await visit.open(f"/jobs/{job}")
    chart = page.locator("[data-chart=error]")
    await expect(chart).to_have_attribute("data-waiting", re.compile("cannot be loaded now"))
    await visit.context.unroute("**/vendor/**")
    await expect(chart.locator(".main-svg").first).to_be_visible()
    await expect(chart).not_to_have_attribute("data-waiting", re.compile(".*"))
    await expect(chart).not_to_have_attribute("aria-busy", "true")
