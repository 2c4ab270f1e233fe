"""Seeds that a number of JavaScript cannot hold are shown, compared and extended to the last digit."""

import httpx2
import pytest
from playwright.async_api import expect

from tests.dashboard.conftest import Api, Visit

pytestmark = pytest.mark.anyio

SEEDS = (9007199254740992, 9007199254740993)
"""2^53, and the first integer that would be rounded to it."""


def submitted(api: Api) -> str:
    base = {"dataset": {"name": "synthetic", "train_limit": 1000}, "epochs": 2}
    grid = {"normalization": [{"type": "none"}], "batch_size": [4], "seed": list(SEEDS)}
    answer = httpx2.post(f"{api.url}/v1/experiments", json={"name": "large", "base": base, "grid": grid})
    assert answer.status_code == 201, answer.text
    id_: str = answer.json()["id"]
    return id_


async def test_are_exact_on_every_page(visit: Visit, api: Api) -> None:
    experiment = submitted(api)
    found = httpx2.get(f"{api.url}/v1/jobs", params={"experiment": experiment, "sort": "seed"}).json()["data"]
    ids = [job["id"] for job in found]
    assert [job["spec"]["seed"] for job in found] == list(SEEDS)

    page = await visit.open(f"/jobs?experiment={experiment}&columns=seed")
    for seed in SEEDS:
        await expect(page.get_by_role("cell", name=str(seed), exact=True)).to_be_visible()
    await page.goto(f"{api.url}/jobs/{ids[1]}")
    await expect(page.get_by_role("main").get_by_text(f"seed {SEEDS[1]}").first).to_be_visible()
    await page.goto(f"{api.url}/compare?jobs={','.join(ids)}")
    for seed in SEEDS:
        await expect(page.get_by_role("cell", name=str(seed), exact=True)).to_have_class("differs")


async def test_are_extended_by_the_next_ones(visit: Visit, api: Api) -> None:
    experiment = submitted(api)
    page = await visit.open(f"/experiments/{experiment}")
    page.once("dialog", lambda dialog: dialog.accept("2"))
    await page.get_by_role("button", name="Add seeds").click()
    await expect(page.locator(".heading")).to_contain_text("4 jobs")
    grid = httpx2.get(f"{api.url}/v1/experiments/{experiment}").json()["request"]["grid"]
    assert grid["seed"] == [*SEEDS, SEEDS[1] + 1, SEEDS[1] + 2]
