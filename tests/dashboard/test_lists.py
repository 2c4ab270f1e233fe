"""The lists of jobs and experiments: keys, actions on several at once, and the number of what matches."""

import re
from collections.abc import Callable

import httpx2
import pytest
from playwright.async_api import Page, expect

from service.client import Client
from tests.dashboard.conftest import Api, Visit

pytestmark = pytest.mark.anyio

GRID = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [8]}


@pytest.fixture
def experiments(api: Api) -> list[str]:
    """Three experiments of two jobs each, the newest first."""
    with Client(api.url) as client:
        ids = [client.experiments.submit({"name": name, "grid": GRID})["id"] for name in ("one", "two", "three")]
    return ids[::-1]


async def test_experiments_are_selected_and_compared_by_keys(visit: Visit, experiments: list[str]) -> None:
    page = await visit.open("/experiments")
    await expect(page.get_by_role("link", name="three")).to_be_visible()
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="three")).to_be_focused()
    await page.keyboard.press("x")
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="two")).to_be_focused()
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    await page.keyboard.press("x")
    await expect(page.get_by_role("region", name="Selected experiments")).to_contain_text("2 selected")
    await page.keyboard.press("c")
    await expect(page).to_have_url(re.compile(f"/compare\\?experiments={experiments[0]},{experiments[1]}"))
    await page.go_back()
    await expect(page.get_by_role("rowheader")).to_have_count(3)
    await page.keyboard.press("j")
    await expect(page.get_by_role("link", name="three")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/experiments/exp"))


async def test_several_experiments_are_paused_resumed_cancelled_and_deleted(
    visit: Visit, api: Api, experiments: list[str]
) -> None:
    page = await visit.open(f"/experiments?selected={experiments[0]},{experiments[1]}")
    bar = page.get_by_role("region", name="Selected experiments")

    async def act(name: str, said: str, counts: dict[str, int] | None) -> None:
        await bar.get_by_role("button", name=name, exact=True).click()
        await expect(page.get_by_role("status").filter(has_text=said).first).to_be_attached()
        for id_ in experiments[:2]:
            answer = httpx2.get(f"{api.url}/v1/experiments/{id_}")
            assert answer.json()["counts"] == counts if counts else answer.status_code == 404

    await act("Pause", "2 experiments paused or asked to pause.", {"paused": 2})
    await act("Resume", "2 experiments queued again.", {"queued": 2})
    questions = questions_of(page)
    await act("Cancel experiments", "2 experiments cancelled.", {"cancelled": 2})
    await act("Delete", "2 experiments deleted.", None)
    assert questions == [
        "Stop all jobs of 2 experiments for good?",
        "Delete 2 experiments with all their jobs and checkpoints? This cannot be undone.",
    ]
    await expect(bar).to_have_count(0)
    await expect(page.get_by_role("rowheader")).to_have_text(["one"])
    assert httpx2.get(f"{api.url}/v1/experiments/{experiments[2]}").json()["counts"] == {"queued": 2}


def questions_of(page: Page) -> list[str]:
    """Accept every question, and return the list of them, which goes on."""
    questions: list[str] = []
    page.on("dialog", lambda dialog: questions.append(dialog.message))
    page.on("dialog", lambda dialog: dialog.accept())
    return questions


async def test_an_experiment_is_renamed_and_gets_another_priority(
    visit: Visit, api: Api, experiments: list[str]
) -> None:
    page = await visit.open(f"/experiments/{experiments[0]}")
    page.once("dialog", lambda dialog: dialog.accept("renamed"))
    await page.get_by_role("button", name="Rename").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("renamed")
    page.once("dialog", lambda dialog: dialog.accept("7"))
    await page.get_by_role("button", name="Priority").click()
    await expect(page.get_by_role("status").filter(has_text="The priority is 7.").first).to_be_attached()
    await expect(page.get_by_role("button", name="Priority")).to_have_attribute("title", re.compile("jobs: 7"))
    found = httpx2.get(f"{api.url}/v1/experiments/{experiments[0]}").json()
    assert (found["name"], found["priority"]) == ("renamed", 7)


async def test_the_list_of_jobs_says_how_many_match(visit: Visit, api: Api, submit: Callable[..., str]) -> None:
    for seed in range(26):
        submit(seed=seed, name="many")
    submit("group", name="single")
    page = await visit.open("/jobs?limit=25")
    await expect(page.get_by_text("27 jobs match")).to_be_visible()
    await page.get_by_role("button", name="Next page").click()
    await expect(page.get_by_role("rowheader")).to_have_count(2)
    await expect(page.get_by_text("27 jobs match")).to_be_visible()
    await page.goto(f"{api.url}/jobs?search=single")
    await expect(page.get_by_text("1 job matches")).to_be_visible()
