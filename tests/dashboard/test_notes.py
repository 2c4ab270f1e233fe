"""Names, labels and notes of a job: what a form does not show or the user does not edit stays as it is."""

from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from playwright.async_api import Locator, Page, Route, expect

from tests.dashboard.conftest import Api, Visit

pytestmark = pytest.mark.anyio

LABELS = {"study.of": "a, b", "at": "10:30, noon", "k,1": '"quoted"', "empty": " "}


def notes(page: Page) -> Locator:
    """Return the card of the notes."""
    return page.locator(".card", has=page.get_by_role("heading", name="Notes and labels"))


async def test_saving_a_note_changes_nothing_else(visit: Visit, api: Api, submit: Callable[..., str]) -> None:
    job = submit(name="a\nb", labels=LABELS)
    page = await visit.open(f"/jobs/{job}")
    sent: list[Any] = []
    page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "PATCH" else None)
    card = notes(page)
    await card.get_by_role("button", name="Edit").click()
    await card.get_by_label("Notes").fill("seen")
    await card.get_by_role("button", name="Save").click()
    await expect(card.locator(".notes")).to_have_text("seen")
    await card.get_by_role("button", name="Edit").click()
    text = await card.get_by_label("Labels").input_value()
    await card.get_by_label("Labels").fill(f"{text}, new:c")
    await card.get_by_role("button", name="Save").click()
    await expect(card.get_by_role("link", name="new: c")).to_be_visible()
    assert sent == [{"notes": "seen"}, {"labels": {"new": "c"}}]
    found = httpx2.get(f"{api.url}/v1/jobs/{job}").json()
    assert (found["name"], found["labels"]) == ("a\nb", LABELS | {"new": "c"})


async def test_what_two_tabs_change_is_kept(visit: Visit, api: Api, submit: Callable[..., str]) -> None:
    job = submit(name="first", labels={"a": "1", "b": "1"})
    one, other = await visit.open(f"/jobs/{job}"), await visit.open(f"/jobs/{job}")
    cards = [notes(page) for page in (one, other)]
    for card in cards:
        await card.get_by_role("button", name="Edit").click()
    await cards[0].get_by_label("Notes").fill("mine")
    await cards[0].get_by_label("Labels").fill("a:2, b:1")
    await cards[1].get_by_label("Notes").fill("theirs")
    await cards[1].get_by_label("Labels").fill("a:1, b:1, c:3")
    await cards[0].get_by_role("button", name="Save").click()
    await expect(cards[0].locator(".notes")).to_have_text("mine")
    await cards[1].get_by_role("button", name="Save").click()
    await expect(cards[1].get_by_role("alert")).to_contain_text("Somebody has saved something else meanwhile")
    await expect(cards[1].locator(".notice")).to_have_text("Notes: saved meanwhile by someone elsemine")
    await expect(cards[1].get_by_label("Notes")).to_have_value("theirs")
    assert httpx2.get(f"{api.url}/v1/jobs/{job}").json()["notes"] == "mine"
    await cards[1].get_by_label("Notes").fill("theirs and mine")
    await cards[1].get_by_role("button", name="Save").click()
    await expect(cards[1].locator(".notes")).to_have_text("theirs and mine")
    found = httpx2.get(f"{api.url}/v1/jobs/{job}").json()
    assert (found["notes"], found["labels"]) == ("theirs and mine", {"a": "2", "b": "1", "c": "3"})


async def test_a_change_between_reading_and_saving_is_read_and_kept(
    visit: Visit, api: Api, submit: Callable[..., str]
) -> None:
    job = submit(name="first", labels={"a": "1"})
    page = await visit.open(f"/jobs/{job}")
    statuses: list[int] = []

    async def meanwhile(route: Route) -> None:
        if route.request.method == "PATCH" and not statuses:
            httpx2.patch(f"{api.url}/v1/jobs/{job}", json={"labels": {"b": "2"}})
        answer = await route.fetch()
        if route.request.method == "PATCH":
            statuses.append(answer.status)
        await route.fulfill(response=answer)

    await page.route(f"**/v1/jobs/{job}", meanwhile)
    card = notes(page)
    await card.get_by_role("button", name="Edit").click()
    await card.get_by_label("Notes").fill("mine")
    await card.get_by_role("button", name="Save").click()
    await expect(card.locator(".notes")).to_have_text("mine")
    await expect(card.get_by_role("alert")).to_have_count(0)
    assert statuses == [412, 200]
    found = httpx2.get(f"{api.url}/v1/jobs/{job}").json()
    assert (found["notes"], found["labels"]) == ("mine", {"a": "1", "b": "2"})


async def test_what_is_typed_stays_on_other_parts_of_the_page(visit: Visit, submit: Callable[..., str]) -> None:
    page = await visit.open(f"/jobs/{submit()}")
    card = notes(page)
    await card.get_by_role("button", name="Edit").click()
    await card.get_by_label("Notes").fill("half a sen")
    await page.get_by_role("link", name="Logs").click()
    await page.get_by_role("link", name="Overview").click()
    await expect(card.get_by_label("Notes")).to_have_value("half a sen")
