"""What all pages share: reconnecting, streams, safe rendering, themes and navigation."""

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.async_api import Dialog, expect

from service.client import Client
from service.settings import Settings
from tests.dashboard.conftest import PATIENCE_S, Api, Visit, held_until
from tests.dashboard.test_accessibility import violations
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def test_a_page_goes_on_when_the_api_was_away_and_misses_nothing(
    visit: Visit, api: Api, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="survivor")
    page = await visit.open("/jobs")
    await expect(page.get_by_role("row").filter(has_text="survivor")).to_contain_text("queued")
    api.stop()
    await expect(page.get_by_text("Updates stopped")).to_be_visible()
    await expect(page.get_by_role("link", name="Offline")).to_be_visible()
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.125)
    api.start()
    await expect(page.get_by_text("Updates stopped")).to_have_count(0)
    await expect(page.get_by_role("link", name="Offline")).to_have_count(0)
    await expect(page.get_by_role("row").filter(has_text="survivor")).to_contain_text("running")
    await expect(page.get_by_role("row").filter(has_text="survivor")).to_contain_text("12.50 %")


async def test_a_page_is_read_again_when_the_database_was_replaced(
    visit: Visit, api: Api, submit: Callable[..., str], settings: Settings, sqlite_template: Path
) -> None:
    for name in ("first", "second", "third"):
        submit(name=name)
    page = await visit.open("/jobs")
    await expect(page.get_by_role("row").filter(has_text="third")).to_contain_text("queued")
    await until(lambda: api.streams() == 1)
    with_another_database(api, settings, sqlite_template)
    await expect(page.get_by_text("The service has other data than before").first).to_be_visible()
    await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    submit(name="new")
    await expect(page.get_by_role("button", name="Show 1 new job")).to_be_visible()


HIDE = """hidden => {
    Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
}"""


async def test_a_page_that_becomes_hidden_closes_its_stream_and_misses_nothing(
    visit: Visit, api: Api, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="unseen")
    page = await visit.open("/jobs")
    row = page.get_by_role("row").filter(has_text="unseen")
    await expect(row).to_contain_text("queued")
    await until(lambda: api.streams() == 1)
    await page.evaluate(HIDE, True)
    await until(lambda: api.streams() == 0)
    await reporter.start()
    await page.evaluate(HIDE, False)
    await expect(row).to_contain_text("running")
    await expect(page.get_by_text("Updates stopped")).to_have_count(0)


async def test_more_tabs_than_a_browser_has_connections_are_opened_in_the_background(
    visit: Visit, api: Api, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(name="unseen")
    streams = streams_of(visit)
    await visit.context.add_init_script(f"({HIDE})(true)")
    hidden = [await visit.open(path) for path in ("/jobs", f"/jobs/{job}", "/experiments", "/compare") * 2]
    await expect(hidden[0].get_by_role("row").filter(has_text="unseen")).to_contain_text("queued")
    await expect(hidden[1]).to_have_title("unseen · normlab")
    assert streams == []
    await reporter.start()
    for page in hidden[:2]:
        await page.evaluate(HIDE, False)
        await expect(page.locator("main")).to_contain_text("running")
    await until(lambda: api.streams() == 2)


async def test_more_visible_windows_than_a_browser_has_connections_are_all_live(
    visit: Visit, api: Api, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="seen")
    streams = streams_of(visit)
    windows = [await visit.open("/jobs") for _ in range(8)]
    for window in windows:
        await expect(window.get_by_role("row").filter(has_text="seen")).to_contain_text("queued")
    await until(lambda: api.streams() == 4)
    await reporter.start()
    for window in windows:
        await expect(window.get_by_role("row").filter(has_text="seen")).to_contain_text("running")
    assert len(streams) == 4
    for window in windows[:2]:
        await window.evaluate(HIDE, True)
    # Two others take their places.
    await until(lambda: len(streams) == 6)
    await until(lambda: api.streams() == 4)


async def test_a_window_without_a_stream_notices_another_database(
    visit: Visit, api: Api, submit: Callable[..., str], settings: Settings, sqlite_template: Path
) -> None:
    for name in ("first", "second", "third"):
        submit(name=name)
    windows = [await visit.open("/jobs") for _ in range(5)]
    await until(lambda: api.streams() == 4)
    with_another_database(api, settings, sqlite_template)
    for window in windows:
        await expect(window.get_by_role("heading", name="No jobs yet")).to_be_visible()


def with_another_database(api: Api, settings: Settings, template: Path) -> None:
    api.stop()
    for name in ("normlab.db", "normlab.db-wal", "normlab.db-shm"):
        (settings.home / name).unlink(missing_ok=True)
    shutil.copy(template, settings.home / "normlab.db")
    api.start()


def streams_of(visit: Visit) -> list[str]:
    """Return a list of all requests for streams, which goes on."""
    found: list[str] = []
    visit.context.on(
        "request", lambda one: found.append(one.url) if one.headers.get("accept") == "text/event-stream" else None
    )
    return found


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that the server's thread makes true."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event of its own
            await asyncio.sleep(0.01)


async def test_a_page_whose_vocabulary_cannot_be_read_says_why_and_tries_again(
    visit: Visit, submit: Callable[..., str]
) -> None:
    submit(name="one")
    refusal = '{"title": "Unavailable", "detail": "The service is restarting."}'
    await visit.context.route(
        "**/v1/specification",
        lambda route: route.fulfill(status=503, content_type="application/problem+json", body=refusal),
    )
    page = await visit.open("/jobs")
    await expect(page.get_by_role("alert")).to_contain_text("The service is restarting.")
    await visit.context.unroute("**/v1/specification")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_role("row").filter(has_text="one")).to_contain_text("queued")
    await expect(page).to_have_title("Jobs · normlab")


async def test_a_page_that_is_chosen_while_the_api_restarts_is_shown_once_it_answers(
    visit: Visit, api: Api, submit: Callable[..., str]
) -> None:
    submit(name="one")
    page = await visit.open("/cluster")
    await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
    api.stop()
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("This page cannot be loaded now")
    assert await violations(page) == []
    api.start()
    await expect(page.get_by_role("row").filter(has_text="one")).to_contain_text("queued")
    # The module of Jobs is known by now, and its data are not.
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
    api.stop()
    await page.get_by_role("link", name="Jobs", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    api.start()
    await expect(page.get_by_role("row").filter(has_text="one")).to_contain_text("queued")


async def test_a_dashboard_whose_modules_cannot_be_fetched_says_so_and_is_loaded_again(visit: Visit) -> None:
    for pattern in ("**/parts.js", "**/readyz"):
        await visit.context.route(pattern, lambda route: route.abort())
    page = await visit.open("/jobs")
    await expect(page.get_by_role("alert")).to_contain_text("The dashboard cannot be loaded now")
    for pattern in ("**/parts.js", "**/readyz"):
        await visit.context.unroute(pattern)
    await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()


async def test_text_is_copied_where_the_browser_has_no_clipboard(
    start_visit: Callable[..., Any], submit: Callable[..., str]
) -> None:
    visit = await start_visit(permissions=["clipboard-read"])
    job = submit(name="one")
    # As on plain http to another machine.
    await visit.context.add_init_script(
        "window.clipboard = navigator.clipboard; Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    )
    page = await visit.open(f"/jobs/{job}")
    await page.get_by_role("button", name="Copy the id of the job").click()
    await expect(page.get_by_text("Copied").first).to_be_visible()
    assert await page.evaluate("window.clipboard.readText()") == job
    await expect(page.get_by_role("button", name="Copy the id of the job")).to_be_focused()


async def test_the_api_is_described_without_the_internet_and_without_signing_in(visit: Visit, api: Api) -> None:
    asked: list[str] = []
    visit.context.on("request", lambda request: asked.append(request.url))
    page = await visit.open("/docs")
    card = page.locator("#pause_job")
    await expect(card.get_by_role("heading", name="Pause job")).to_be_visible()
    await expect(card).to_contain_text(f'curl -s "{api.url}/v1/jobs/$JOB_ID/pause" -X POST')
    described = httpx2.get(f"{api.url}/openapi.json").json()["paths"]
    await expect(page.locator(".operation")).to_have_count(sum(len(methods) for methods in described.values()))
    await page.get_by_role("searchbox", name="Search the operations").fill("dry run")
    await expect(page.get_by_role("heading", level=3)).to_have_text(["Submit experiment"])
    await page.locator("#submit_experiment summary").click()
    await expect(page.get_by_role("row").filter(has=page.get_by_text("budget", exact=True))).to_be_visible()
    assert [url for url in asked if not url.startswith(api.url)] == []


async def test_going_somewhere_takes_the_focus_along(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
    await expect(page.get_by_role("main")).to_be_focused()
    await expect(page).to_have_title("Cluster · normlab")


async def test_so_does_leaving_a_page_that_is_not_shown_yet(visit: Visit) -> None:
    shown = asyncio.Event()
    await visit.context.route("**/pages/jobs.js", held_until(shown))
    page = await visit.open("/jobs")
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("main")).to_be_focused()
    shown.set()
    await page.unroute_all(behavior="wait")


async def test_the_keys_are_listed_by_a_key(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_contain_text("compare the selected jobs")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_nothing_in_a_name_is_markup(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name='<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>')
    page = await visit.open("/jobs")
    await expect(page.get_by_role("link", name="<img src=x")).to_be_visible()
    assert await page.evaluate("window.hurt") is None
    assert await page.locator("main img").count() == 0


async def test_a_script_that_got_into_the_page_would_not_run(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
    await page.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.hurt = 1' }))"
    )
    assert await page.evaluate("window.hurt") is None
    assert [complaint for complaint in visit.complaints if "Content Security Policy" in complaint]
    visit.complaints.clear()


async def test_the_theme_is_that_of_the_system_until_one_is_chosen(start_visit: Callable[..., Any]) -> None:
    visit = await start_visit(color_scheme="dark")
    page = await visit.open("/jobs")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(background)
    await page.get_by_label("Theme").select_option("light")
    light = await page.evaluate(background)
    assert (dark, light) == ("rgb(17, 20, 24)", "rgb(247, 248, 250)")
    await page.reload()
    assert await page.evaluate(background) == light
    await page.get_by_label("Theme").select_option("system")
    assert await page.evaluate(background) == dark


async def test_an_address_that_leads_nowhere_within_the_dashboard_says_so(visit: Visit) -> None:
    page = await visit.open("/jobs/job_nothing")
    await expect(page.get_by_role("main")).to_contain_text("There is no job job_nothing")


async def test_one_module_uses_the_storage_of_the_browser() -> None:
    files = Path("service/dashboard/static").rglob("*.js")
    using = {
        path.name for path in files if {"localStorage", "sessionStorage"} & set(re.findall(r"\w+", path.read_text()))
    }
    assert using == {"storage.js", "theme.js"}, "theme.js is a classic script, which runs before modules"


async def test_no_module_makes_markup_of_text() -> None:
    for path in Path("service/dashboard/static").rglob("*.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in path.read_text(), f"{path} uses {word}"


async def test_single_letter_keys_can_be_switched_off(visit: Visit, submit: Callable[..., str]) -> None:
    submit(name="one")
    page = await visit.open("/jobs")
    link = page.get_by_role("link", name="one", exact=True)
    await expect(link).to_be_visible()
    await page.keyboard.press("j")
    await expect(link).to_be_focused()
    await page.get_by_role("button", name="Keys").click()
    assert await violations(page) == []
    await page.get_by_role("checkbox", name="Use these keys in this browser").uncheck()
    await page.get_by_role("button", name="Close").click()
    await page.reload()
    await expect(link).to_be_visible()
    for key in ("j", "x", "?", "g", "c"):
        await page.keyboard.press(key)
    await expect(page.get_by_role("region", name="Selected jobs")).to_have_count(0)
    await expect(page.get_by_role("dialog")).to_have_count(0)
    await expect(page).to_have_url(f"{visit.api.url}/jobs")


async def test_a_name_does_not_turn_the_text_around_it(visit: Visit, submit: Callable[..., str]) -> None:
    turned = "\u202ename"
    submit(name=turned, labels={"study": turned})
    page = await visit.open("/jobs?columns=labels")
    for link in (page.locator("th.name a"), page.locator("td a.tag")):
        await expect(link).to_contain_text("name")
        assert await link.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"
    with Client(visit.api.url) as client:
        [job] = client.jobs()
    await page.goto(f"{visit.api.url}/jobs/{job['id']}")
    await expect(page).to_have_title(f"\u2068{turned}\u2069 · normlab")
    await page.locator("summary", has_text="Views").click()
    await page.get_by_label("Name for the current view").fill(turned)
    await page.get_by_role("button", name="Save").click()
    await expect(page.get_by_role("status").filter(has_text=f"“\u2068{turned}\u2069”").first).to_be_attached()
    questions: list[str] = []

    async def accept(dialog: Dialog) -> None:
        questions.append(dialog.message)
        await dialog.accept()

    page.on("dialog", accept)
    delete = page.get_by_role("button", name=re.compile("^Delete the view"))
    await delete.click()
    await expect(delete).to_have_count(0)
    assert questions == [f"Delete the view “\u2068{turned}\u2069” for all users?"]


async def test_what_does_not_exist_says_so_and_where_to_go(visit: Visit) -> None:
    for path, link in (
        ("/jobs/job_nothing", "All jobs"),
        ("/experiments/exp_nothing", "All experiments"),
        ("/jbos", "All jobs"),
        ("/jobs/job_nothing/more", "All jobs"),
    ):
        page = await visit.open(path)
        await expect(page.get_by_role("heading", name="Not found", level=1)).to_be_visible()
        await expect(page.get_by_role("main").get_by_role("link", name=link)).to_be_visible()
        assert await violations(page) == []


async def test_the_history_of_a_job_has_dates_and_the_time_zone(
    start_visit: Callable[..., Any], submit: Callable[..., str]
) -> None:
    job = submit(name="one")
    visit: Visit = await start_visit(timezone_id="Asia/Kolkata")
    page = await visit.open(f"/jobs/{job}")
    entry = page.get_by_role("listitem").filter(has_text="queued")
    await expect(entry).to_contain_text(re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC\+05:30"))
