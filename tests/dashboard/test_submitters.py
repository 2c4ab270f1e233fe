"""Who submitted jobs and experiments, where tokens have names."""

import pytest
from playwright.async_api import expect
from pydantic import SecretStr

from service.client import Client
from service.settings import Settings
from tests.dashboard.conftest import Api, Visit
from tests.dashboard.test_tokens import sign_in

pytestmark = pytest.mark.anyio

JOB = {"normalization": {"type": "batch"}, "batch_size": 8}
GRID = {"normalization": [{"type": "batch"}], "batch_size": [8]}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(home=settings.home, port=0, api_tokens=SecretStr("ada:open-sesame,bob:close-sesame"))


async def test_names_lead_to_what_was_submitted_with_them(visit: Visit, api: Api) -> None:
    with Client(api.url, token="close-sesame") as bob, Client(api.url, token="open-sesame") as ada:
        bob.submit(JOB | {"name": "bob's own"})
        job = ada.submit(JOB | {"name": "ada's own"})["id"]
        experiment = ada.experiments.submit({"name": "ada's grid", "grid": GRID})["id"]
    page = await visit.open(f"/jobs/{job}")
    await sign_in(page, "close-sesame")
    await expect(page.locator(".heading p")).to_contain_text("submitted by ada")
    await page.locator(".heading").get_by_role("link", name="ada", exact=True).click()
    table = page.locator("table.jobs tbody")
    await expect(table).to_contain_text("ada's own")
    await expect(table).not_to_contain_text("bob's own")
    await page.get_by_role("button", name="Show the jobs of others than ada, too").click()
    await expect(table).to_contain_text("bob's own")

    await page.goto(f"{api.url}/jobs?columns=submitted_by")
    await expect(table.locator("tr", has_text="bob's own")).to_contain_text("bob")

    await page.goto(f"{api.url}/experiments/{experiment}")
    await page.locator(".heading").get_by_role("link", name="ada", exact=True).click()
    await expect(page.locator("tr", has_text="ada's grid")).to_contain_text("by ada")
    await page.goto(f"{api.url}/experiments?submitted_by=bob")
    await expect(page.get_by_text("Submitted by bob")).to_be_visible()
    await page.get_by_role("link", name="Show all").click()
    await expect(page.locator("tr", has_text="ada's grid")).to_be_visible()
