"""Clone: submitting the form without edits sends an equal request."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from service.experiments.builtin import STUDIES
from tests.dashboard.conftest import Api, Visit, held_until

pytestmark = pytest.mark.anyio

SMALL = {"dataset": {"name": "synthetic", "train_limit": 1000}, "epochs": 2}
NORMALIZATIONS: list[dict[str, Any]] = [
    {"type": "batch"},
    {"type": "batch", "ghost_batch_size": 4},
    {"type": "batch", "ghost_batch_size": 8, "momentum": 0.2},
    {"type": "sync_batch", "momentum": 0.01},
    {"type": "group"},
    {"type": "group", "num_groups": 4, "eps": 1e-7},
    {"type": "group", "channels_per_group": 4, "affine": False},
    {"type": "layer"},
    {"type": "instance"},
    {"type": "none"},
]
EXPERIMENTS: dict[str, dict[str, Any]] = {
    **{name: {"builtin": name} for name in STUDIES},
    "a built-in one with changes": {
        "builtin": "paper-norms",
        "name": "smaller",
        "base": {"model": "vgg", "dataset": {"name": "synthetic"}, "learning_rate_scaling": {"rule": "none"}},
        "grid": {"batch_size": [8], "seed": [3]},
        "outcome": {"metric": "train_loss"},
        "budget": 0.3,
        "priority": -3,
    },
    "every normalization": {
        "base": {**SMALL, "telemetry": {}},
        "grid": {"normalization": NORMALIZATIONS, "batch_size": [16]},
    },
    "axes of every kind": {
        "name": 'true, "null" & 4 = {}',
        "base": {
            "recipe": "wu-he",
            "normalization": {"type": "batch", "ghost_batch_size": 2},
            "optimizer": {"type": "sgd", "nesterov": True},
            "labels": {"study.of": "a, b", "n": "4"},
            "checkpoint": {"every_s": None, "keep_last": 3},
            "max_retries": 0,
            "num_workers": 2,
            **SMALL,
        },
        "grid": {
            "model": ["resnet20", "vgg"],
            "optimizer.learning_rate": [0.1, 1e-5, 3],
            "schedule": [{"type": "cosine"}, {"type": "multistep", "milestones": [0.25, 0.5], "warmup_epochs": 1.5}],
            "deterministic": [True, False],
            "batch_size": [4],
            "telemetry": [None, {"every_epochs": 2}],
            "seed": [7, 9007199254740993],
        },
        "outcome": {"metric": "test_loss", "statistic": "best", "rows": "optimizer.learning_rate", "columns": "model"},
        "priority": 12,
    },
    "sequential seeds": {
        "name": "4",
        "base": {"normalization": {"type": "instance"}, "name": "all named alike", **SMALL},
        "grid": {"model": ["resnet20", "resnet56"], "batch_size": [4, 8]},
        "seeds": {"min": 2, "max": 5},
        "outcome": {"statistic": "median_last_5"},
        "budget": 0.5,
    },
    "tuned": {
        "base": SMALL,
        "grid": {"normalization": NORMALIZATIONS, "batch_size": [4, 8], "seed": [0, 1]},
        "tune": {
            "over": {
                "optimizer.learning_rate": {"from": 0.01, "to": 1, "points": 3},
                "normalization.momentum": [0.1, 0.2],
            },
            "per": "cell",
            "holdout": 100,
        },
    },
    "one cell": {"base": {"normalization": {"type": "group", "num_groups": None}, "batch_size": 4}},
}


def submitted(api: Api, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx2.post(f"{api.url}/v1/experiments", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def clone(page: Page) -> None:
    """Open the form by Clone on the page of an experiment or a job, and submit it without edits."""
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_role("heading", name="New")).to_be_visible()
    before = page.url
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name=re.compile(r"^Submit (the job|\d+ jobs?)$")).click()
    await page.wait_for_url(re.compile(r"/(experiments|jobs)/\w+$"))
    assert page.url != before


@pytest.mark.parametrize("name", EXPERIMENTS)
async def test_a_cloned_experiment_is_an_equal_request(visit: Visit, api: Api, name: str) -> None:
    original = submitted(api, EXPERIMENTS[name])
    page = await visit.open(f"/experiments/{original['id']}")
    await clone(page)
    found = httpx2.get(f"{api.url}/v1/experiments/{page.url.rpartition('/')[2]}").json()
    assert found["id"] != original["id"]
    assert found["request"] == original["request"]
    assert found["jobs"] == original["jobs"]


async def test_a_cloned_job_is_an_equal_request(visit: Visit, api: Api) -> None:
    body = {
        "name": "4",
        "recipe": "wu-he",
        "normalization": {"type": "batch", "ghost_batch_size": 8, "momentum": 0.3},
        "batch_size": 16,
        "telemetry": {"every_epochs": 2},
        "labels": {"a.b": "c, d"},
        "priority": 5,
        "max_retries": 0,
        "seed": 9007199254740993,
        **SMALL,
    }
    original = httpx2.post(f"{api.url}/v1/jobs", json=body).json()
    page = await visit.open(f"/jobs/{original['id']}")
    await clone(page)
    found = httpx2.get(f"{api.url}/v1/jobs/{page.url.rpartition('/')[2]}").json()
    assert found["id"] != original["id"]
    for field in ("name", "title", "spec", "labels", "priority", "max_retries"):
        assert found[field] == original[field]


async def test_the_form_is_shown_once_the_clone_was_read(visit: Visit, submit: Callable[..., str]) -> None:
    read = asyncio.Event()
    job = submit()
    await visit.context.route(f"**/v1/jobs/{job}", held_until(read))
    page = await visit.open(f"/new?from={job}")
    await expect(page.get_by_text("Loading the form…")).to_be_visible()
    await expect(page.get_by_role("button", name="Submit the job")).to_have_count(0)
    read.set()
    await expect(page.get_by_label("Batch size required")).to_have_value("8")
    await expect(page.get_by_role("button", name="Submit the job")).to_be_visible()


async def test_a_clone_that_cannot_be_read_says_so_and_is_read_again(visit: Visit, submit: Callable[..., str]) -> None:
    job = submit()
    await visit.context.route(f"**/v1/jobs/{job}", lambda route: route.abort(), times=1)
    page = await visit.open(f"/new?from={job}")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.get_by_label("Batch size required")).to_have_value("8")


async def test_whoever_leaves_the_form_before_the_clone_is_read_stays_away(
    visit: Visit, submit: Callable[..., str]
) -> None:
    read = asyncio.Event()
    job = submit()
    page = await visit.open(f"/jobs/{job}")
    await expect(page.get_by_role("link", name="Clone")).to_be_visible()
    await page.route(f"**/v1/jobs/{job}", held_until(read))
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_text("Loading the form…")).to_be_visible()
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
    read.set()
    await page.unroute_all(behavior="wait")
    await expect(page).to_have_url(f"{visit.api.url}/cluster")


async def test_whoever_leaves_a_page_before_its_job_is_deleted_stays_away(
    visit: Visit, submit: Callable[..., str]
) -> None:
    deleted = asyncio.Event()
    job = submit()
    httpx2.post(f"{visit.api.url}/v1/jobs/{job}/cancel").raise_for_status()
    page = await visit.open(f"/jobs/{job}")
    page.on("dialog", lambda dialog: dialog.accept())
    await expect(page.get_by_role("button", name="Delete")).to_be_visible()
    await page.route(f"**/v1/jobs/{job}", held_until(deleted))
    async with page.expect_request(lambda request: request.method == "DELETE") as request:
        await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("link", name="Cluster").click()
    await expect(page.get_by_role("heading", name="Cluster", exact=True)).to_be_visible()
    deleted.set()
    response = await (await request.value).response()
    assert response is not None
    assert response.status == 204
    await page.unroute_all(behavior="wait")
    await expect(page).to_have_url(f"{visit.api.url}/cluster")


async def test_a_label_of_a_clone_is_edited_and_the_others_stay(visit: Visit, api: Api) -> None:
    labels = {"study.of": "a, b", "at": "10:30", "quoted": '"x"', "who": "ann"}
    body = {"normalization": {"type": "batch"}, "batch_size": 16, "labels": labels, **SMALL}
    original = httpx2.post(f"{api.url}/v1/jobs", json=body).json()
    page = await visit.open(f"/jobs/{original['id']}")
    await page.get_by_role("link", name="Clone").click()
    field = page.get_by_label("Labels")
    await expect(field).to_have_value(re.compile("who:ann"))
    await field.fill((await field.input_value()).replace("who:ann", 'who:"bob, ben"'))
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit the job").click()
    await page.wait_for_url(lambda url: "/jobs/" in url and original["id"] not in url)
    found = httpx2.get(f"{api.url}/v1/jobs/{page.url.rpartition('/')[2]}").json()
    assert found["labels"] == labels | {"who": "bob, ben"}
    assert found["spec"] == original["spec"]


async def test_a_clone_is_edited_where_it_is_edited_and_nowhere_else(visit: Visit, api: Api) -> None:
    original = submitted(api, EXPERIMENTS["every normalization"])
    page = await visit.open(f"/experiments/{original['id']}")
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_role("listitem").filter(has_text="batch (ghost batches of 4)")).to_be_visible()
    await page.get_by_role("button", name="Remove batch (ghost batches of 4)").click()
    await page.get_by_role("combobox", name="Type").first.select_option("sync_batch")
    await page.get_by_label("Eps", exact=True).fill("0.001")
    await page.get_by_role("button", name="Add to normalizations").click()
    await expect(page.get_by_role("listitem").filter(has_text="sync_batch (eps 0.001)")).to_be_visible()
    await page.get_by_label("Batch sizes").fill("16, 32")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit 20 jobs").click()
    await page.wait_for_url(lambda url: "/experiments/" in url and original["id"] not in url)
    found = httpx2.get(f"{api.url}/v1/experiments/{page.url.rpartition('/')[2]}").json()["request"]
    wanted = [*NORMALIZATIONS[:1], *NORMALIZATIONS[2:], {"type": "sync_batch", "eps": 0.001}]
    assert found["grid"] == original["request"]["grid"] | {"normalization": wanted, "batch_size": [16, 32]}
    assert {**found, "grid": None} == {**original["request"], "grid": None}
