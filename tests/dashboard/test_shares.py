"""The link of an experiment: who makes it, and what it shows in a browser without an account."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.async_api import expect
from pydantic import SecretStr

from service.client import Client
from service.settings import Settings
from tests.dashboard.conftest import Api, Visit
from tests.dashboard.test_accessibility import violations
from tests.dashboard.test_tokens import sign_in
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

GRID = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [8]}
LABELS = {"institute": "atlantis"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(home=settings.home, port=0, api_tokens=SecretStr("ada:open-sesame"))


async def test_a_link_shows_an_experiment_and_its_jobs_to_a_browser_without_an_account(
    visit: Visit, api: Api, reporter: Reporter, start_visit: Callable[..., Any]
) -> None:
    with Client(api.url, token="open-sesame") as ada:
        base = {"labels": LABELS, "epochs": 1}
        experiment = ada.experiments.submit({"name": "blind study", "base": base, "grid": GRID})["id"]
    job = await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.25)
    await reporter.finish()
    page = await visit.open(f"/experiments/{experiment}")
    await sign_in(page, "open-sesame")
    await page.locator("summary", has_text="Share").click()
    await page.get_by_label("For anonymous review").check()
    await page.get_by_role("button", name="Create a link").click()
    link = await page.get_by_label("The new link").input_value()
    assert link.startswith(f"{api.url}/experiments/{experiment}#share=share_")
    await expect(page.get_by_role("button", name="Revoke the link")).to_be_visible()
    assert await violations(page) == []

    other: Visit = await start_visit()
    reviewer = await other.open("/docs")
    asked: list[str] = []
    reviewer.on("request", lambda request: asked.append(request.url))
    await reviewer.goto(link)
    await expect(reviewer.locator(".heading")).to_contain_text("blind study")
    await expect(reviewer.get_by_text("Shared, read-only")).to_be_visible()
    await expect(reviewer.get_by_text("25.00").first).to_be_visible()
    await expect(reviewer.get_by_role("navigation", name="Main").get_by_role("link")).to_have_count(0)
    for name in ("Share", "Clone", "Bundle"):
        await expect(reviewer.locator(".heading").get_by_text(name, exact=True)).to_have_count(0)
    assert await violations(reviewer) == []
    await reviewer.get_by_role("link", name="show them").click()
    await reviewer.locator(f"a[href='/jobs/{job}']").click()
    await expect(reviewer.get_by_role("figure", name="Error: error (%)")).to_be_visible()
    assert await violations(reviewer) == []
    for name in ("Logs", "Checkpoints"):
        await expect(reviewer.get_by_role("link", name=name)).to_have_count(0)
    await reviewer.reload()
    await expect(reviewer.locator(".heading")).to_contain_text("succeeded")
    text = await reviewer.locator("body").inner_text()
    assert "atlantis" not in text
    assert "ada" not in text.split()
    assert not [url for url in [*asked, reviewer.url] if "share_" in url.partition("#")[0]]
    assert "share_" not in reviewer.url

    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Revoke the link").click()
    await expect(page.get_by_role("button", name="Revoke the link")).to_have_count(0)
    await reviewer.reload()
    await expect(reviewer.get_by_text("This link has been revoked or has expired")).to_be_visible()
