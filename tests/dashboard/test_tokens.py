"""A service with tokens: signing in, the session of a browser, and what a read-only token may do."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect
from pydantic import SecretStr

from service.client import Client
from service.settings import Settings
from tests.dashboard.conftest import Api, Visit
from tests.dashboard.test_accessibility import violations
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def sign_in(page: Page, token: str) -> None:
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="Sign in").click()


class TestTokens:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return Settings(home=settings.home, port=0, api_tokens=SecretStr("ada:open-sesame,bob:only-looks:read"))

    async def test_a_token_is_asked_for_once_and_scripts_and_addresses_have_it_nowhere(self, visit: Visit) -> None:
        page = await visit.open("/jobs")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await expect(page.get_by_label("Token")).to_be_focused()
        assert await violations(page) == []
        await page.get_by_label("Token").fill("wrong")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text("unknown")
        await page.get_by_label("Token").fill("open-sesame")
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
        assert not [url for url in [*asked, page.url] if "sesame" in url]
        kept = "[document.cookie, ...Object.values(localStorage), ...Object.values(sessionStorage)]"
        assert await page.evaluate(kept) == [""]

        other = await visit.open("/jobs")
        await expect(other.get_by_role("heading", name="No jobs yet")).to_be_visible()
        await other.locator("summary", has_text="ada").click()
        await expect(other.get_by_text("Signed in as ada.", exact=True)).to_be_visible()
        assert await violations(other) == []
        await other.get_by_role("button", name="Sign out").click()
        await expect(other.get_by_role("heading", name="Sign in")).to_be_visible()
        # The first tab has lost its session with the other one.
        await page.get_by_role("link", name="Cluster").click()
        await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()

    async def test_links_to_the_api_open(self, visit: Visit, api: Api) -> None:
        with Client(api.url, token="open-sesame") as client:
            job = client.submit({"normalization": {"type": "batch"}, "batch_size": 8, "name": "linked"})["id"]
        page = await visit.open("/jobs")
        await sign_in(page, "only-looks")
        async with visit.context.expect_page() as opened:
            await page.get_by_role("link", name="JSON").click()
        answer = await opened.value
        await expect(answer.locator("body")).to_contain_text(job)
        await answer.goto(f"{api.url}/v1/jobs/{job}")
        await expect(answer.locator("body")).to_contain_text('"name":"linked"')

    async def test_a_read_only_token_can_plan_and_is_offered_no_changes(
        self, visit: Visit, api: Api, reporter: Reporter
    ) -> None:
        with Client(api.url, token="open-sesame") as client:
            job = client.submit({"normalization": {"type": "batch"}, "batch_size": 8, "name": "guarded"})["id"]
            experiment = client.experiments.submit({"builtin": "paper-norms", "budget": 0.01})["id"]
        page = await visit.open(f"/jobs/{job}")
        await sign_in(page, "only-looks")
        await page.locator("summary", has_text="bob").click()
        await expect(page.get_by_text("Signed in as bob. Read-only.")).to_be_visible()
        await page.keyboard.press("Escape")
        reason = "Not permitted: the token of bob is read-only."
        for name in ("Pause", "Cancel", "Edit"):
            await expect(page.get_by_role("button", name=name)).to_be_disabled()
            await expect(page.get_by_role("button", name=name)).to_have_attribute("title", reason)
        await page.goto(f"{api.url}/experiments/{experiment}")
        for name in ("Pause", "Cancel", "Add seeds"):
            await expect(page.get_by_role("button", name=name, exact=True)).to_be_disabled()
        with Client(api.url, token="open-sesame") as client:
            client.experiments.cancel(experiment)
            client.cancel(job)
        for path in (f"/experiments/{experiment}", f"/jobs/{job}"):
            await page.goto(api.url + path)
            await expect(page.get_by_role("button", name="Delete", exact=True)).to_be_disabled()
        for noun, id_ in (("jobs", job), ("experiments", experiment)):
            await page.goto(f"{api.url}/{noun}?selected={id_}")
            bar = page.get_by_role("region", name=f"Selected {noun}")
            await expect(bar.get_by_role("button", name="Delete")).to_have_attribute("title", reason)
            changes = ["Clear"] if noun == "experiments" else ["Clear", "Select all that match this filter"]
            for button in await bar.get_by_role("button").all():
                assert await button.is_disabled() == (await button.inner_text() not in changes)
        with Client(api.url, token="open-sesame") as client:
            trained = client.submit({"normalization": {"type": "batch"}, "batch_size": 8})["id"]
        await reporter.start()
        await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
        await reporter.finish()
        await page.goto(f"{api.url}/jobs/{trained}?tab=checkpoints")
        await expect(page.get_by_role("button", name="Evaluate")).to_have_attribute("title", reason)
        await expect(page.get_by_role("button", name="Evaluate")).to_be_disabled()
        await page.locator("summary", has_text="Views").click()
        await expect(page.get_by_role("button", name="Save")).to_be_disabled()
        await page.goto(f"{api.url}/new?normalization.type=group&batch_size=8")
        await expect(page.get_by_text("Computing time")).to_be_visible()
        await expect(page.get_by_role("button", name="Submit the job")).to_be_disabled()
        await expect(page.get_by_text(reason)).to_be_visible()
        assert await violations(page) == []

    async def test_a_browser_that_blocks_site_data_keeps_the_token_and_the_theme_in_the_page(
        self, start_visit: Callable[..., Any]
    ) -> None:
        visit = await start_visit(color_scheme="light")
        await visit.context.add_init_script(
            """for (const area of ["localStorage", "sessionStorage"])
                Object.defineProperty(window, area, {
                    get() { throw new DOMException("Access is denied for this document.", "SecurityError") },
                });
            Object.defineProperty(navigator, "clipboard", { value: undefined });
            document.execCommand = () => false;"""
        )

        async def without_cookie(route: Route) -> None:
            if route.request.method == "POST":
                await route.fulfill(json={"name": "ada", "may_write": True})
            else:
                await route.continue_()

        await visit.context.route("**/v1/session", without_cookie)
        page = await visit.open("/jobs")
        await sign_in(page, "open-sesame")
        await expect(page.get_by_role("heading", name="No jobs yet")).to_be_visible()
        assert await visit.context.cookies() == []
        await page.get_by_label("Theme").select_option("dark")
        await page.get_by_role("link", name="Cluster").click()
        await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
        await expect(page.get_by_label("Theme")).to_have_value("dark")
        assert await page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 24)"
        await page.get_by_role("link", name="Jobs", exact=True).click()
        await page.get_by_text("Views", exact=True).click()
        await page.get_by_role("button", name="Copy the link to this view").click()
        await expect(page.get_by_text("This browser does not allow copying").first).to_be_visible()

    async def test_the_stream_and_the_downloads_need_no_token_of_their_own(
        self, visit: Visit, api: Api, reporter: Reporter
    ) -> None:
        with Client(api.url, token="open-sesame") as client:
            job = client.submit({"normalization": {"type": "batch"}, "batch_size": 8, "name": "guarded"})["id"]
        page = await visit.open(f"/jobs/{job}?tab=checkpoints")
        await sign_in(page, "only-looks")
        await expect(page.locator(".heading")).to_contain_text("queued")
        await reporter.start()
        await expect(page.locator(".heading")).to_contain_text("running")
        await reporter.checkpoint(1, 10, {"model.safetensors": b"the weights"}, test_error=0.25)
        async with page.expect_download() as started:
            await page.get_by_role("link", name="Download model.safetensors of step 10").click()
        assert (await (await started.value).path()).read_bytes() == b"the weights"
