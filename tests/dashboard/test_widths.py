"""Pages at common widths: nothing that decides is out of sight, and no name widens a page."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from playwright.async_api import Locator, expect

from tests.dashboard.conftest import Api
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

NAME = "a study of everything " + "that_goes_on_without_a_space_" * 4
GHOST = {"type": "batch", "ghost_batch_size": 2}
GROUP = {"type": "group", "num_groups": 4, "eps": 1e-7}


@pytest.fixture
async def experiment(api: Api, reporter: Reporter) -> str:
    """An experiment with a long name, whose jobs have all succeeded."""
    base = {"epochs": 2, "dataset": {"name": "synthetic", "train_limit": 80}}
    grid = {"normalization": [GHOST, GROUP], "batch_size": [4], "seed": [0, 1]}
    body = {"name": NAME, "base": base, "grid": grid}
    id_: str = httpx2.post(f"{api.url}/v1/experiments", json=body).json()["id"]
    for number in range(4):
        await reporter.start()
        await reporter.metrics("eval", 2, 40, test_error=0.25 + number / 10)
        await reporter.finish()
    return id_


async def right_edge(locator: Locator) -> float:
    """Return where an element ends, in pixels from the left of the window."""
    await expect(locator).to_be_attached()
    edge: float = await locator.evaluate("element => element.getBoundingClientRect().right")
    return edge


@pytest.mark.parametrize("width", [1366, 1440, 1536, 1920])
async def test_the_numbers_that_decide_are_in_sight(
    start_visit: Callable[..., Any], experiment: str, width: int
) -> None:
    visit = await start_visit(viewport={"width": width, "height": 900})
    page = await visit.open(f"/experiments/{experiment}")
    card = page.get_by_role("region", name="Comparisons")
    assert await right_edge(card.get_by_role("columnheader", name="p adjusted")) <= await right_edge(card) + 1
    page = await visit.open(f"/jobs?experiment={experiment}")
    assert await right_edge(page.get_by_role("columnheader", name="Best test error")) <= width


@pytest.mark.parametrize("width", [390, 1440])
async def test_no_name_widens_a_page_or_hides_its_end(
    start_visit: Callable[..., Any], experiment: str, api: Api, width: int
) -> None:
    visit = await start_visit(viewport={"width": width, "height": 900})
    job = httpx2.get(f"{api.url}/v1/jobs").json()["data"][0]["id"]
    paths = ["/experiments", f"/experiments/{experiment}", "/jobs?group=normalization", f"/jobs/{job}"]
    body = httpx2.get(f"{api.url}/v1/experiments/{experiment}").json()["request"]
    other = httpx2.post(f"{api.url}/v1/experiments", json={name: body[name] for name in ("name", "base", "grid")})
    paths.append(f"/compare?experiments={experiment},{other.json()['id']}")
    for path in [*paths, f"/compare?jobs={job}", "/explore", "/new?kind=experiment", f"/new?from={job}", "/cluster"]:
        page = await visit.open(path)
        await expect(page.locator("main h1").first).to_be_visible()
        await expect(page.locator("[aria-busy=true]")).to_have_count(0)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
        await page.close()
    page = await visit.open("/experiments")
    link = page.get_by_role("link", name="[synthetic]").last
    shown = (
        "(link) => [...link.querySelectorAll('.truncated')].every((part) => !part.textContent.includes('synthetic'))"
    )
    assert await link.evaluate(shown)
