"""The page that compares experiments: their cells side by side, and the differences of equal cells."""

from typing import Any

import httpx2
import pytest
from playwright.async_api import Route, expect

from tests.dashboard.conftest import Api, Visit
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

ERRORS = {"batch": (0.30, 0.33, 0.31), "layer": (0.40, 0.41, 0.40)}


async def trained(api: Api, reporter: Reporter, name: str, lower_by: float = 0.0, **base: Any) -> str:
    """An experiment of two normalizations, two batch sizes and three seeds, whose jobs have succeeded."""
    grid = {"normalization": [{"type": kind} for kind in ERRORS], "batch_size": [2, 8], "seed": [0, 1, 2]}
    body = {"name": name, "base": {"dataset": {"name": "synthetic"}, "epochs": 2} | base, "grid": grid}
    answer = httpx2.post(f"{api.url}/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    for _ in range(12):
        spec = httpx2.get(f"{api.url}/v1/jobs/{await reporter.start()}").json()["spec"]
        error = ERRORS[spec["normalization"]["type"]][spec["seed"]] - lower_by * (1 + spec["seed"] / 100)
        await reporter.metrics("eval", 2, 20, test_error=error, test_loss=4 * error)
        await reporter.finish()
    return str(answer.json()["id"])


async def test_selected_experiments_are_compared(visit: Visit, api: Api, reporter: Reporter) -> None:
    first = await trained(api, reporter, "first study")
    second = await trained(api, reporter, "second study", lower_by=0.1, model="vgg")
    page = await visit.open("/experiments")
    await page.get_by_role("checkbox", name="Select first study").check()
    await expect(page.get_by_role("region", name="Selected experiments")).to_contain_text("Select another to compare")
    await page.get_by_role("checkbox", name="Select second study").check()
    await page.get_by_role("link", name="Compare").click()
    cells = page.get_by_role("region", name="Cells of the experiments")
    await expect(cells.locator("tbody tr")).to_have_count(4)
    await expect(cells.locator("tbody tr").first).to_contain_text("first study")
    row = cells.get_by_role("row").filter(has_text="batch").filter(has_text="first study")
    await expect(row.get_by_role("cell").nth(1)).to_contain_text("31.33")
    await expect(row.get_by_role("cell").nth(1)).to_contain_text("(3)")
    await expect(page.get_by_role("figure")).to_have_count(1)
    differences = page.get_by_role("region", name="Differences")
    await expect(differences.locator("tbody tr")).to_have_count(4)
    await expect(differences.locator("tbody tr").first).to_contain_text("B has less")
    await expect(page.get_by_text("Equal cells differ in model")).to_be_visible()
    await expect(page.get_by_text("Experiments differ")).to_be_visible()
    await expect(differences.get_by_role("columnheader", name="Significant (Holm)")).to_be_visible()
    assert "experiments=" in page.url
    copied = await visit.open(f"/compare?experiments={first},{second}&statistic=best&tables=experiments")
    await expect(copied.get_by_role("region", name="test error (%) by batch size").locator("thead th")).to_have_count(5)
    await copied.get_by_role("link", name="first study").first.click()
    await expect(copied).to_have_url(f"{api.url}/experiments/{first}")


async def test_a_name_does_not_turn_the_warning_behind_it(visit: Visit, api: Api, reporter: Reporter) -> None:
    turned = "\u202ename"
    grid = {"normalization": [{"type": "batch"}], "batch_size": [8]}
    ids = []
    for name in (turned, "other"):
        ids.append(httpx2.post(f"{api.url}/v1/experiments", json={"name": name, "grid": grid}).json()["id"])
        await reporter.start()
        await reporter.metrics("eval", 2, 20, test_error=0.5)
        await reporter.finish()

    async def warned(route: Route) -> None:
        answer = await route.fetch()
        body = await answer.json()
        for one in body["experiments"]:
            one["warnings"] = [{"code": "unequal_seeds", "detail": "1 to 3 seeds.", "jobs": [], "severity": "note"}]
        await route.fulfill(response=answer, json=body)

    await visit.context.route("**/v1/comparison?*", warned)
    page = await visit.open(f"/compare?experiments={','.join(ids)}")
    assumptions = page.get_by_role("region", name="Assumptions")
    await expect(assumptions).to_contain_text(f"\u2068{turned}\u2069: 1 to 3 seeds.")
    await expect(assumptions).to_contain_text("other: 1 to 3 seeds.")


async def test_one_of_three_can_be_left_out(visit: Visit, api: Api, reporter: Reporter) -> None:
    ids = [await trained(api, reporter, name) for name in ("one", "two", "three")]
    page = await visit.open(f"/compare?experiments={','.join(ids)}")
    await expect(page.get_by_role("region", name="Differences").locator("tbody tr")).to_have_count(12)
    await page.get_by_role("link", name="Leave two").click()
    await expect(page.get_by_role("region", name="Differences").locator("tbody tr")).to_have_count(4)
    await expect(page).to_have_url(f"{api.url}/compare?experiments={ids[0]},{ids[2]}")


async def test_an_address_without_experiments_says_where_to_select_them(visit: Visit) -> None:
    page = await visit.open("/compare?experiments=")
    await expect(page.get_by_text("Select two or more experiments")).to_be_visible()
