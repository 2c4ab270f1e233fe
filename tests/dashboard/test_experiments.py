"""The pages of experiments: the list, and the results while jobs run."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import Api, Visit
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

ERRORS = {("batch", 2): 0.5, ("batch", 8): 0.2, ("layer", 2): 0.25, ("layer", 8): 0.225}


@pytest.fixture
def experiment(api: Api) -> str:
    """A queued experiment of two normalizations, two batch sizes and three seeds."""
    body = {
        "name": "small <b>batches</b>",
        "base": {"dataset": {"name": "synthetic"}, "epochs": 10},
        "grid": {
            "normalization": [{"type": "batch"}, {"type": "layer"}],
            "batch_size": [2, 8],
            "seed": [0, 1, 2],
        },
    }
    answer = httpx2.post(f"{api.url}/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


@pytest.fixture
def run(reporter: Reporter, api: Api) -> Callable[..., Awaitable[None]]:
    """Run a number of queued jobs to their end, with errors that differ slightly between seeds."""

    async def run(jobs: int) -> None:
        for _ in range(jobs):
            spec = httpx2.get(f"{api.url}/v1/jobs/{await reporter.start()}").json()["spec"]
            cell = spec["normalization"]["type"], spec["batch_size"]
            spread = {("layer", 2): -0.001, ("layer", 8): -0.002}.get(cell, 0.001)
            error = ERRORS[cell] + spread * spec["seed"]
            for epoch, factor in enumerate((1.5, 1.2, 1.0), 1):
                await reporter.metrics("eval", epoch, 10 * epoch, test_error=error * factor, test_loss=4 * error)
            await reporter.finish()

    return run


def cell(page: Page, row: str, column: int) -> Any:
    column_at = {2: 0, 8: 1}[column]
    table = page.get_by_role("region", name="Results")
    return table.get_by_role("row").filter(has=page.get_by_role("rowheader", name=row)).locator("td").nth(column_at)


async def test_the_table_fills_in_while_one_looks(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]], reporter: Reporter
) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    await expect(page.get_by_role("heading", level=1)).to_have_text("small <b>batches</b> [synthetic]")
    await expect(cell(page, "batch", 2)).to_contain_text("3 queued")
    await expect(page.locator(".headline")).to_have_text("No job has a value yet [synthetic; 0 of 12 jobs have ended].")
    await run(4)
    await expect(cell(page, "batch", 2)).to_contain_text("50.00 %")
    await expect(cell(page, "batch", 2)).to_contain_text("n = 1")
    await run(8)
    await expect(cell(page, "batch", 2)).to_contain_text("50.10 %± 0.25 · n = 3")
    await expect(page.locator(".heading")).to_contain_text("finished")
    results = httpx2.get(f"{visit.api.url}/v1/experiments/{experiment}/results").json()
    await expect(page.locator(".headline")).to_have_text(results["headline"])
    assert "batch has 25.20 percentage points more test error than layer" in results["headline"]

    await page.get_by_label("Differences to").select_option("layer")
    await expect(cell(page, "batch", 2).locator(".difference")).to_have_text("+25.20 significant")
    await expect(cell(page, "layer", 2).locator(".difference")).to_have_count(0)
    await page.get_by_label("Differences to").select_option("batch")
    await expect(cell(page, "layer", 2).locator(".difference")).to_have_text("\u221225.20 significant")
    await expect(page).to_have_url(re.compile(r"[?&]baseline=batch"))


async def test_a_running_cell_says_how_far_it_is(visit: Visit, experiment: str, reporter: Reporter) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    await reporter.start()
    await expect(page.get_by_role("region", name="Results")).to_contain_text("1 running")
    await reporter.progress(25_000, images_per_s=100.0)
    await expect(page.get_by_role("region", name="Results")).to_contain_text("1 running 50 %")


async def test_the_differences_say_which_are_real(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]]
) -> None:
    await run(12)
    page = await visit.open(f"/experiments/{experiment}")
    rows = page.get_by_role("region", name="Comparisons").locator("tbody tr")
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("batch \u2212 layer")
    await expect(rows.first).to_contain_text("layer has less")
    await expect(rows.first).to_contain_text("+25.20")
    assumptions = page.get_by_role("region", name="Assumptions")
    await expect(assumptions.get_by_role("heading", name="Assumptions")).to_be_visible()
    await expect(assumptions).to_contain_text("Unequal optimizer steps")
    await expect(page.get_by_role("main")).to_contain_text("depends on the batch size")
    await page.get_by_role("button", name=re.compile("^Significant")).click()
    await expect(page).to_have_url(re.compile("pairs=resolved"))


async def test_metric_statistic_and_cells_are_chosen_and_stay_in_the_address(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]]
) -> None:
    await run(12)
    page = await visit.open(f"/experiments/{experiment}")
    await page.get_by_label("Metric").select_option("test_loss")
    await page.get_by_label("Statistic").select_option("best")
    await expect(cell(page, "batch", 2)).to_contain_text("2.004")
    await cell(page, "batch", 2).get_by_role("button").click()
    jobs = page.get_by_role("region", name="Jobs of the chosen cells")
    await expect(jobs.locator("tbody tr")).to_have_count(3)
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await expect(cell(copied, "batch", 2).get_by_role("button")).to_have_attribute("aria-pressed", "true")
    await expect(copied.get_by_role("region", name="Jobs of the chosen cells").locator("tbody tr")).to_have_count(3)
    await expect(copied.get_by_role("figure", name="Learning curves, test loss")).to_have_attribute(
        "aria-label", re.compile("batch at 2 ends at 2.004$")
    )
    await copied.get_by_role("link", name="Compare them").click()
    await expect(copied.get_by_role("region", name="Specification").locator("tbody th")).to_have_text(["seed"])


async def test_the_figure_is_a_table_with_its_intervals(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]]
) -> None:
    await run(12)
    page = await visit.open(f"/experiments/{experiment}?tables=figure")
    table = page.get_by_role("region", name="test error (%) by batch size")
    await expect(table.locator("tbody tr").first).to_have_text(re.compile(r"250\.10 % \(49\.85 % to 50\.35 %\)"))


async def test_it_is_paused_resumed_extended_exported_and_cancelled(visit: Visit, experiment: str) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    heading = page.locator(".heading")
    await page.get_by_role("button", name="Pause").click()
    await expect(heading).to_contain_text("paused")
    await page.get_by_role("button", name="Resume").click()
    await expect(heading).to_contain_text("queued")
    page.once("dialog", lambda dialog: dialog.accept("2"))
    await page.get_by_role("button", name="Add seeds").click()
    await expect(heading).to_contain_text("20 jobs")
    async with page.expect_download() as started:
        await exported(page, "mean over seeds", "CSV of the cells")
    assert (await (await started.value).path()).read_text().startswith("row,column,n,mean")
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel").click()
    await expect(heading).to_contain_text("cancelled")
    async with page.expect_download() as started:
        await page.get_by_role("button", name="Report").click()
    assert (await (await started.value).path()).read_text().startswith("<!doctype html>")


async def exported(page: Page, heading: str, entry: str) -> None:
    """Choose an entry of the export menu of a card."""
    card = page.locator(".card", has=page.get_by_role("heading", name=heading))
    await card.locator("summary", has_text="Export").click()
    await card.get_by_role("button", name=entry).click()


EXPORTS = [
    ("by batch size", "PDF, one column", "figure.pdf", b"%PDF"),
    ("by batch size", "SVG, two columns", "figure.svg", b"<svg"),
    ("by batch size", "CSV of what", "figure.csv", b"series,Batch size [synthetic],"),
    ("Learning curves", "PNG, one column", "curves.png", b"\x89PNG"),
    ("Learning curves", "CSV of what", "curves.csv", b"series,Epoch [synthetic],"),
    ("mean over seeds", "LaTeX", ".tex", b"% \\usepackage{booktabs}"),
    ("mean over seeds", "CSV of every value", "observations.csv", b"row,column,"),
    ("Pairwise comparisons", "CSV of this table", "comparisons.csv", b"batch size,a \xe2\x88\x92 b,Significant"),
]


async def test_charts_and_tables_are_exported(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]]
) -> None:
    await run(12)
    page = await visit.open(f"/experiments/{experiment}?hidden=figure+layer")
    await expect(page.get_by_role("region", name="Comparisons").locator("tbody tr")).to_have_count(2)
    for heading, entry, name, begins in EXPORTS:
        async with page.expect_download() as started:
            await exported(page, heading, entry)
        download = await started.value
        assert download.suggested_filename.endswith(name)
        content = (await download.path()).read_bytes()
        assert content.startswith(begins), (heading, entry)
        if name == "figure.csv":
            assert {line.split(b",")[0] for line in content.splitlines()[1:]} == {b"batch"}, (
                "what is hidden is left out"
            )
        await expect(page.locator("details[open]")).to_have_count(0)
    await page.set_viewport_size({"width": 390, "height": 800})
    for heading in {heading for heading, *_ in EXPORTS}:
        card = page.locator(".card", has=page.get_by_role("heading", name=heading))
        await card.locator("summary", has_text="Export").click()
        box = await card.get_by_role("group", name="Export").bounding_box()
        assert box is not None
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390, heading


async def test_it_is_cloned_into_the_form(visit: Visit, experiment: str) -> None:
    page = await visit.open(f"/experiments/{experiment}")
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_role("list", name="Normalizations").get_by_role("listitem")).to_have_text(
        [re.compile("^batch"), re.compile("^layer")]
    )
    await expect(page.get_by_role("button", name="Submit 12 jobs")).to_be_visible()


async def test_the_list_leads_to_it_and_an_empty_one_to_a_first(
    visit: Visit, api: Api, request: pytest.FixtureRequest
) -> None:
    page = await visit.open("/")
    await expect(page.get_by_role("heading", name="No experiments yet")).to_be_visible()
    await page.get_by_role("button", name="A finished study").click()
    await expect(page.get_by_role("region", name="Results")).to_contain_text("group (8)")
    await page.get_by_role("link", name="Experiments").first.click()
    request.getfixturevalue("experiment")
    await page.reload()
    row = page.get_by_role("region", name="Experiments").get_by_role("row").filter(has_text="small <b>batches</b>")
    await expect(row).to_contain_text("12 queued")
    await row.get_by_role("link").click()
    await expect(page.get_by_role("region", name="Results")).to_be_visible()


async def test_jobs_are_grouped_with_means_and_intervals(
    visit: Visit, experiment: str, run: Callable[..., Awaitable[None]]
) -> None:
    await run(12)
    page = await visit.open("/jobs")
    await page.locator("summary", has_text="Group by").click()
    await page.get_by_role("checkbox", name="normalization").check()
    row = page.get_by_role("region", name="Groups").get_by_role("row").filter(has_text="batch2")
    await expect(row).to_have_text("batch2350.10 %49.85 % to 50.35 %0.10 %50.00 %50.20 %")


async def test_synthetic_images_are_named_wherever_their_numbers_are(visit: Visit, reporter: Reporter) -> None:
    base = {"name": "twin", "dataset": {"name": "synthetic", "train_limit": 80}, "epochs": 2}
    ghost = {"type": "batch", "ghost_batch_size": 2}
    grid = {"normalization": [ghost], "batch_size": [4], "seed": [0, 1]}
    body = {"name": "trial", "base": base, "grid": grid}
    id_ = httpx2.post(f"{visit.api.url}/v1/experiments", json=body).json()["id"]
    jobs = []
    for seed in (0, 1):
        jobs.append(await reporter.start())
        await reporter.metrics("eval", 2, 40, test_error=0.25 + seed / 10)
        await reporter.finish()
    page = await visit.open("/experiments")
    await expect(page.get_by_role("link", name="trial [synthetic]")).to_be_visible()
    page = await visit.open(f"/experiments/{id_}")
    await expect(page.get_by_role("heading", name="trial [synthetic]")).to_be_visible()
    await expect(page.get_by_role("rowheader", name="batch (ghost batches of 2)").first).to_be_visible()
    figure = page.locator("section", has=page.locator("[data-chart=figure]"))
    await expect(figure.locator("header small")).to_have_text("synthetic (train_limit 80)")
    page = await visit.open("/jobs")
    await expect(page.get_by_role("row", name="twin [synthetic]").first).to_contain_text("ghost batches of 2")
    page = await visit.open(f"/jobs/{jobs[0]}")
    await expect(page.get_by_role("heading", name="twin [synthetic]")).to_be_visible()
    await expect(page.locator(".heading")).to_contain_text("batch (ghost batches of 2)")
    page = await visit.open(f"/compare?jobs={','.join(jobs)}")
    await expect(page.get_by_text("Images: synthetic.")).to_be_visible()
