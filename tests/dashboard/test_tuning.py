"""The page of a tuned experiment: what was chosen, what the search cost, and its two tables."""

from typing import Any

import httpx2
from playwright.async_api import expect

from service.dispatcher import seeding
from service.settings import Settings
from service.store import Database
from tests.dashboard.conftest import Api, Visit
from tests.integration.api.reporter import Reporter

BODY: dict[str, Any] = {
    "base": {"dataset": {"name": "synthetic", "train_limit": 1000}, "epochs": 10},
    "grid": {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [4]},
    "tune": {"over": {"optimizer.learning_rate": [0.01, 0.1, 1.0]}, "holdout": 100, "seeds": 1},
}


async def run_all(http: httpx2.Client, reporter: Reporter) -> None:
    """Run all queued jobs. The middle learning rate is best for batch, the largest for group."""
    while http.get("/v1/jobs", params={"status": "queued", "limit": 1}).json()["data"]:
        spec = http.get(f"/v1/jobs/{await reporter.start()}").json()["spec"]
        best = 0.1 if spec["normalization"]["type"] == "batch" else 1.0
        error = 0.25 if spec["optimizer"]["learning_rate"] == best else 0.5
        metric = "holdout_error" if spec["dataset"]["holdout"] else "test_error"
        await reporter.metrics("eval", 1, 10, **{metric: error})
        await reporter.finish()


async def test_a_tuned_experiment_shows_what_was_chosen_and_both_tables(
    visit: Visit, api: Api, reporter: Reporter, settings: Settings
) -> None:
    with httpx2.Client(base_url=api.url) as http:
        id_ = http.post("/v1/experiments", json=BODY).json()["id"]
        page = await visit.open(f"/experiments/{id_}")
        card = page.get_by_role("region", name="Tuning")
        rows = page.get_by_role("region", name="Chosen values").locator("tbody tr")
        await expect(card).to_contain_text("0 of 6 jobs")
        await expect(rows).to_contain_text(["still searched", "still searched"])
        await run_all(http, reporter)
        async with Database(settings.database) as database, database.write() as session:
            assert len(await seeding.decide(session, id_)) == 2
        await run_all(http, reporter)

    await expect(card).to_contain_text("6 of 6 jobs")
    await expect(card).to_contain_text("Cost of the search")
    await expect(rows.nth(0)).to_contain_text("learning_rate 0.1")
    await expect(rows.nth(0)).not_to_contain_text("at the edge")
    await expect(rows.nth(1)).to_contain_text("at the edge: optimizer.learning rate")
    table = page.get_by_role("region", name="Results", exact=True)
    await expect(table.get_by_role("button")).to_contain_text(["25.0", "25.0"])
    await page.get_by_role("button", name="Untuned").click()
    assert "stage=untuned" in page.url
    await expect(page.get_by_role("button", name="Untuned")).to_have_attribute("aria-pressed", "true")
    await page.get_by_role("button", name="Tuned", exact=True).click()
    assert "stage" not in page.url
