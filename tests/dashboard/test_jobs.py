"""The table of jobs: filters, sorting, columns, groups and selection."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from playwright.async_api import Page, expect

from service.client import Client
from tests.dashboard.conftest import Visit
from tests.dashboard.test_accessibility import violations
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


def query_of(page: Page) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def row(page: Page, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


async def test_a_service_without_jobs_says_what_to_do_next(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    await expect(page.get_by_role("main").get_by_role("link", name="New job").first).to_have_attribute("href", "/new")


async def test_a_row_follows_its_job(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    submit("group", 2, name="followed", epochs=10)
    page = await visit.open("/jobs")
    await expect(row(page, "followed")).to_contain_text("queued")
    await reporter.start()
    await expect(row(page, "followed")).to_contain_text("running")
    await reporter.metrics("eval", 1, 10, test_error=0.25)
    await expect(row(page, "followed")).to_contain_text("25.00 %")
    await reporter.metrics("eval", 2, 20, test_error=0.5)
    await expect(row(page, "followed")).to_contain_text("50.00 %25.00 %")
    await reporter.finish()
    await expect(row(page, "followed")).to_contain_text("succeeded")


async def test_a_new_job_is_announced_and_shown_when_asked(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name="first")
    page = await visit.open("/jobs")
    await expect(row(page, "first")).to_be_visible()
    submit(name="second")
    await page.get_by_role("button", name="Show 1 new job").click()
    await expect(row(page, "second")).to_be_visible()
    await expect(page.get_by_role("button", name="Show 1 new job")).to_have_count(0)


async def test_the_address_holds_the_view_and_restores_it(visit: Visit, submit: Callable[..., str]) -> None:
    for normalization in ("batch", "group"):
        for batch_size in (2, 4):
            submit(normalization, batch_size, name=f"{normalization} {batch_size}")
    page = await visit.open("/jobs")
    await page.locator("summary", has_text="Normalization").click()
    await page.get_by_role("checkbox", name="group", exact=True).check()
    await page.keyboard.press("Escape")
    await expect(row(page, "batch 2")).to_have_count(0)
    await page.get_by_role("button", name="Batch size", exact=True).click()
    await expect(page.get_by_role("columnheader", name="Batch size")).to_have_attribute("aria-sort", "ascending")
    await page.get_by_role("checkbox", name="Select group 4").check()
    assert query_of(page) | {"selected": []} == {"normalization": ["group"], "sort": ["batch_size"], "selected": []}

    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await expect(row(copied, "group 2")).to_be_visible()
    await expect(copied.get_by_role("checkbox", name="Select group 4")).to_be_checked()
    await expect(copied.get_by_role("columnheader", name="Batch size")).to_have_attribute("aria-sort", "ascending")
    assert await copied.locator("tbody a").all_inner_texts() == ["group 2", "group 4"]

    await page.go_back()
    await expect(page.get_by_role("columnheader", name="Batch size")).not_to_have_attribute("aria-sort", "ascending")
    await page.go_back()
    await expect(row(page, "batch 2")).to_be_visible()


async def test_pages_are_turned_forth_and_back(visit: Visit, submit: Callable[..., str]) -> None:
    names = [f"number {n:02}" for n in range(30)]
    for name in names:
        submit(name=name)
    page = await visit.open("/jobs?limit=25&sort=name")
    await expect(page.locator("tbody tr")).to_have_count(25)
    await page.get_by_role("button", name="Next page").click()
    await expect(page.locator("tbody a")).to_have_text(names[25:])
    await page.get_by_role("button", name="First page").click()
    await expect(page.locator("tbody a")).to_have_text(names[:25])


async def test_columns_are_chosen(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name="one", epochs=7)
    page = await visit.open("/jobs")
    await page.locator("summary", has_text="Columns").click()
    await page.get_by_role("checkbox", name="Epochs").check()
    await page.get_by_role("checkbox", name="Model").uncheck()
    await expect(page.get_by_role("columnheader", name="Epochs")).to_be_visible()
    await expect(page.get_by_role("columnheader", name="Model")).to_have_count(0)
    await page.reload()
    await expect(page.get_by_role("columnheader", name="Epochs")).to_be_visible()
    await page.keyboard.press("Escape")


async def test_the_table_is_worked_with_keys_alone(visit: Visit, submit: Callable[..., str]) -> None:
    ids = [submit(name=name) for name in ("older", "newer")]
    page = await visit.open("/jobs")
    await expect(row(page, "newer")).to_be_visible()
    for key in ("j", "x", "j", "x"):
        await page.keyboard.press(key)
    await expect(page.get_by_role("region", name="Selected jobs")).to_contain_text("2 selected")
    await page.keyboard.press("c")
    await expect(page).to_have_url(f"{visit.api.url}/compare?jobs={ids[1]},{ids[0]}")
    await page.keyboard.press("g")
    await page.keyboard.press("j")
    await expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.type("old")
    await expect(page).to_have_url(f"{visit.api.url}/jobs?search=old")
    await expect(row(page, "newer")).to_have_count(0)
    await expect(row(page, "older")).to_be_visible()


async def test_jobs_of_all_pages_are_selected_and_changed_with_totals(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for number in range(30):
        submit(name=f"unwanted {number:02}")
    kept = submit(name="kept")
    page = await visit.open("/jobs?limit=25&sort=name&search=unwanted")
    await page.get_by_role("checkbox", name="Select all on this page").check()
    bar = page.get_by_role("region", name="Selected jobs")
    await expect(bar).to_contain_text("25 selected")
    await bar.get_by_role("button", name="Select all that match this filter").click()
    await expect(bar).to_contain_text("30 selected")
    assert await violations(page) == []
    page.on("dialog", lambda dialog: dialog.accept("study:paper" if dialog.type == "prompt" else None))
    await bar.get_by_role("button", name="Label").click()
    await expect(page.get_by_text("30 jobs labelled.").first).to_be_visible()
    await bar.get_by_role("button", name="Pause").click()
    await expect(page.get_by_text("30 jobs paused or asked to pause.").first).to_be_visible()
    await bar.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("0 jobs deleted; 30 not in a state that allows it.").first).to_be_visible()
    await bar.get_by_role("button", name="Resume").click()
    await expect(page.get_by_text("30 jobs queued again.").first).to_be_visible()
    await bar.get_by_role("button", name="Cancel jobs").click()
    await expect(page.get_by_text("30 jobs cancelled.").first).to_be_visible()
    await bar.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No jobs match this filter")).to_be_visible()
    await expect(bar).to_have_count(0)
    with Client(visit.api.url) as client:
        assert [job["id"] for job in client.jobs()] == [kept]


async def test_selected_jobs_are_cancelled_after_a_question_and_submitted_again(
    visit: Visit, submit: Callable[..., str]
) -> None:
    for name in ("unwanted", "other"):
        submit(name=name)
    page = await visit.open("/jobs")
    await page.get_by_role("checkbox", name="Select unwanted").check()
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel jobs").click()
    await expect(row(page, "unwanted")).to_contain_text("cancelled")
    await page.get_by_role("checkbox", name="Select other").check()
    await page.get_by_role("button", name="Retry").click()
    await expect(page.get_by_text("1 job submitted again; 1 not in a state that allows it.").first).to_be_visible()


async def test_going_back_returns_to_the_place_in_the_list(visit: Visit, submit: Callable[..., str]) -> None:
    for number in range(40):
        submit(name=f"number {number:02}")
    page = await visit.open("/jobs?sort=name")
    link = page.get_by_role("link", name="number 35", exact=True)
    await link.scroll_into_view_if_needed()
    place = await page.evaluate("scrollY")
    assert place > 0
    await link.click()
    await expect(page.get_by_role("heading", name="number 35")).to_be_visible()
    assert await page.evaluate("scrollY") == 0
    await page.go_back()
    await expect(link).to_be_in_viewport()
    assert await page.evaluate("scrollY") == place


async def test_all_that_the_filter_means_is_exported(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for normalization in ("batch", "group"):
        submit(normalization, 8, name=normalization)
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.25)
        await reporter.finish()
    page = await visit.open("/jobs?normalization=group")
    await page.locator(".exports summary").click()
    async with page.expect_download() as started:
        await page.get_by_role("button", name="CSV of every filtered job").click()
    lines = (await (await started.value).path()).read_text().splitlines()
    assert len(lines) == 2
    assert "group" in lines[1]
    assert "0.25" in lines[1]
    await page.locator(".exports summary").click()
    async with page.expect_download() as started:
        await page.get_by_role("button", name="Parquet of every filtered job").click()
    assert (await (await started.value).path()).read_bytes().startswith(b"PAR1")


async def test_a_label_leads_to_the_jobs_that_share_it(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name="with", labels={"study": "a & b"})
    submit(name="without")
    page = await visit.open("/jobs?columns=labels")
    await page.get_by_role("link", name="study: a & b").click()
    await expect(row(page, "without")).to_have_count(0)
    await expect(row(page, "with")).to_be_visible()
    await expect(page.get_by_label("Label, as key:value")).to_have_value("study:a & b")


async def test_jobs_are_sorted_by_a_metric_and_by_more_with_shift(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for name, error in (("one", 0.5), ("two", 0.25), ("three", 0.5)):
        submit(name=name)
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error / 2)
        await reporter.metrics("eval", 2, 20, test_error=error)
        await reporter.finish()
    submit(name="unmeasured")
    page = await visit.open("/jobs")
    names = page.locator("tbody th a")
    await page.get_by_role("button", name="Last test error").click()
    await expect(names).to_have_text(["two", "one", "three", "unmeasured"])
    await expect(page.get_by_role("columnheader", name="Last test error")).to_have_attribute("aria-sort", "ascending")
    created = page.get_by_role("button", name="Created")
    await created.click(modifiers=["Shift"])
    await created.click(modifiers=["Shift"])
    await expect(names).to_have_text(["two", "three", "one", "unmeasured"])
    assert query_of(page)["sort"] == ["test_error,-created_at"]
    await expect(created).to_contain_text("2")
    await page.reload()
    await expect(names).to_have_text(["two", "three", "one", "unmeasured"])
    await page.get_by_role("button", name="Best test error").click()
    await page.get_by_role("button", name="Best test error").click()
    await expect(names.last).to_have_text("unmeasured")
    assert query_of(page)["sort"] == ["-test_error.best"]


async def test_a_view_is_named_found_again_and_forgotten(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name="one")
    page = await visit.open("/jobs?sort=name&status=queued")
    await page.locator("summary", has_text="Views").click()
    await expect(page.get_by_text("No views are saved.")).to_be_visible()
    await page.get_by_label("Name for the current view").fill("what <b>waits</b>")
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("link", name="what <b>waits</b>")).to_be_visible()

    other = await visit.open("/cluster")
    await other.locator("summary", has_text="Views").click()
    await other.get_by_role("link", name="what <b>waits</b>").click()
    await expect(other).to_have_url(f"{visit.api.url}/jobs?sort=name&status=queued")
    await expect(row(other, "one")).to_be_visible()
    if not await other.get_by_label("Name for the current view").is_visible():
        await other.locator("summary", has_text="Views").click()
    await other.get_by_label("Name for the current view").fill("what <b>waits</b>")
    await other.get_by_role("button", name="Save").click()
    await expect(other.locator(".toast")).to_contain_text("There is a view named what <b>waits</b> already")
    other.once("dialog", lambda dialog: dialog.accept())
    await other.get_by_role("button", name="Delete the view what <b>waits</b>").click()
    await expect(other.get_by_text("No views are saved.")).to_be_visible()


async def test_groups_have_the_warnings_of_their_numbers(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for seed, epochs in enumerate((10, 20)):
        submit("batch", 4, seed=seed, dataset={"name": "synthetic"}, epochs=epochs)
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.25 + seed / 10)
        await reporter.finish()
    page = await visit.open("/jobs?group=normalization")
    card = page.locator(".card", has=page.get_by_role("heading", name="by group"))
    await expect(card.get_by_role("columnheader", name="95 % interval")).to_be_visible()
    found = httpx2.get(f"{visit.api.url}/v1/results?rows=normalization&columns=batch_size").json()
    details = [warning["detail"].replace("`", "") for warning in found["warnings"]]
    assert any("optimizer steps" in detail for detail in details)
    assert await card.locator(".notice p").all_inner_texts() == details
    await expect(card.get_by_text("synthetic", exact=False).first).to_be_visible()


async def test_any_field_label_and_metric_filters_sorts_and_groups(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    for rate, error in ((0.2, 0.5), (0.1, 0.25)):
        optimizer = {"type": "sgd", "learning_rate": rate}
        submit("group", 8, name=f"rate {rate}", epochs=1, optimizer=optimizer, labels={"arm": f"of {rate}"})
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    page = await visit.open("/jobs")
    await page.get_by_role("combobox", name="Sort by").select_option("optimizer.learning_rate")
    await expect(page.locator("table.jobs tbody a").first).to_have_text("rate 0.1")

    async def add(quantity: str, relation: str, value: str) -> None:
        await page.locator("summary", has_text="Filter by").click()
        await page.get_by_label("Field, label or metric").fill(quantity)
        await page.get_by_label("Relation").select_option(relation)
        await page.get_by_role("textbox", name="Value", exact=True).fill(value)
        await page.get_by_role("button", name="Add", exact=True).click()

    await add("test_error", "<", "30 %")
    await expect(row(page, "rate 0.2")).to_have_count(0)
    await expect(row(page, "rate 0.1")).to_be_visible()
    assert query_of(page)["where"] == ["test_error<0.3"]
    await page.get_by_role("button", name="Remove the condition test_error<0.3").click()
    await add("labels.arm", ":", "of 0.2")
    await expect(row(page, "rate 0.1")).to_have_count(0)
    await add("speed", "<", "3")
    await expect(page.get_by_role("alert")).to_contain_text("'speed' is no quantity of a job: give a field")
    page = await visit.open("/jobs?group=labels.arm,optimizer.learning_rate")
    groups = page.get_by_role("region", name="Groups")
    await expect(groups.get_by_role("row", name="of 0.1")).to_contain_text("25.00")
    await page.locator("summary", has_text="Group by").click()
    await expect(page.get_by_role("checkbox", name="label arm")).to_be_checked()
    await expect(page.get_by_role("checkbox", name="optimizer learning rate")).to_be_checked()
