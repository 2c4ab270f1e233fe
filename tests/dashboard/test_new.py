"""The form of a new job or experiment: the request that it sends, and the service's errors at the fields."""

import json
import re
from collections.abc import Callable

import pytest
from playwright.async_api import Dialog, expect

from service.client import Client
from tests.dashboard.conftest import Visit
from tests.integration.api.reporter import Reporter
from worker.normalizations.registry import NORMALIZATIONS

pytestmark = pytest.mark.anyio


async def test_a_job_is_submitted_and_shown(visit: Visit) -> None:
    page = await visit.open("/new")
    await page.get_by_label("Batch size required").fill("2")
    await page.get_by_label("Num groups").fill("4")
    await page.get_by_label("Recipe").select_option("wu-he")
    await expect(page.get_by_label("Epochs", exact=True)).to_have_attribute("placeholder", "100")
    await page.get_by_text("Training", exact=True).click()
    await page.get_by_label("Learning rate", exact=True).fill("0.2")
    await page.get_by_label("Labels").fill("study: paper, by: ada")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.locator(".heading")).to_contain_text("queued")
    with Client(visit.api.url) as client:
        [job] = client.jobs()
    assert job["spec"]["normalization"]["num_groups"] == 4
    assert (job["spec"]["batch_size"], job["spec"]["epochs"], job["spec"]["recipe"]) == (2, 100, "wu-he")
    assert job["spec"]["optimizer"] == {
        "type": "sgd", "learning_rate": 0.2, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
    }  # fmt: skip
    assert job["labels"] == {"study": "paper", "by": "ada"}


async def test_what_the_service_refuses_stands_at_its_field_before_anything_is_spent(visit: Visit) -> None:
    page = await visit.open("/new?batch_size=4&normalization.num_groups=5")
    field = page.get_by_label("Num groups")
    await expect(field).to_have_attribute("aria-invalid", "true")
    await expect(field).to_have_accessible_description("groups in every layer ✕ num_groups is 5, which does not divide "
        "the 16 channels of resnet20's layer stem_norm: give one of 1, 2, 4, 8, 16")  # fmt: skip
    await page.get_by_role("button", name="Submit the job").click()
    await expect(field).to_be_focused()
    await field.fill("8")
    await expect(field).not_to_have_attribute("aria-invalid", "true")
    with Client(visit.api.url) as client:
        assert list(client.jobs()) == []


async def test_a_value_of_a_folded_part_unfolds_it_when_it_is_wrong(visit: Visit) -> None:
    page = await visit.open("/new?batch_size=4")
    await page.get_by_text("Training", exact=True).click()
    await page.get_by_label("Holdout").fill("60000")
    await page.get_by_text("Training", exact=True).click()
    await expect(page.get_by_label("Holdout")).to_have_attribute("aria-invalid", "true")
    await expect(page.get_by_label("Holdout")).to_be_visible()


async def test_a_job_is_cloned_into_the_form(visit: Visit, submit: Callable[..., str]) -> None:
    job = submit("group", 16, name="original", optimizer={"type": "adam", "betas": [0.8, 0.9]}, labels={"a": "b"})
    page = await visit.open(f"/jobs/{job}")
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_label("Batch size required")).to_have_value("16")
    await expect(page.get_by_label("Betas")).to_have_value("0.8, 0.9")
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit the job").click()
    await expect(page.locator(".heading")).to_contain_text("original")
    with Client(visit.api.url) as client:
        clone, original = client.jobs()
    assert clone["spec"] == original["spec"]
    assert clone["labels"] == original["labels"]


async def test_an_experiment_says_what_it_makes_before_it_is_submitted(visit: Visit) -> None:
    page = await visit.open("/new?kind=experiment")
    await page.get_by_role("button", name="Remove group (8)").click()
    for parameter, value in (("Num groups", "4"), ("Channels per group", "2")):
        await page.get_by_role("combobox", name="Type").first.select_option("group")
        await page.get_by_label(parameter).fill(value)
        await page.get_by_role("button", name="Add to normalizations").click()
    await page.get_by_label("Batch sizes").fill("8, 4")
    await page.get_by_label("Seeds", exact=True).fill("0, 1")
    before = page.get_by_label("What it would cost")
    await expect(before).to_contain_text(re.compile("Assumptions.*Unequal optimizer steps"))
    page.on("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit 12 jobs").click()
    await expect(page).to_have_url(re.compile("/experiments/exp"))
    with Client(visit.api.url) as client:
        jobs = list(client.jobs())
    assert len(jobs) == 12
    assert {job["spec"]["normalization"].get("num_groups") for job in jobs} == {None, 4}
    assert {job["spec"]["normalization"].get("channels_per_group") for job in jobs} == {None, 2}


async def test_a_built_in_experiment_is_a_click_away_and_its_price_is_chosen(visit: Visit) -> None:
    page = await visit.open("/new?kind=experiment")
    await page.get_by_role("button", name="paper-norms").click()
    await page.get_by_role("button", name="1 %").click()
    await expect(page.get_by_role("button", name="Submit 20 jobs")).to_be_visible()
    await expect(page.get_by_role("list", name="Normalizations")).to_have_count(0)
    await expect(page.get_by_label("Epochs", exact=True)).to_have_attribute("placeholder", "100")
    await page.get_by_text("The request as JSON").click()
    preview = page.locator("pre")
    await expect(preview).to_contain_text('"budget": 0.01')
    assert json.loads(await preview.inner_text()) == {"builtin": "paper-norms", "budget": 0.01}


async def test_the_batch_size_of_several_workers_is_that_of_each(visit: Visit) -> None:
    page = await visit.open("/new?batch_size=4")
    await expect(page.get_by_label("Batch size required")).to_have_value("4")
    await page.get_by_text("Running", exact=True).click()
    await page.get_by_label("Num workers").fill("2")
    await expect(page.get_by_label("Batch size per worker required")).to_have_value("4")
    jobs = await visit.open("/jobs?columns=batch_size")
    await expect(jobs.locator("main")).to_contain_text("No jobs yet")


async def test_a_wrong_value_of_the_grid_is_marked(visit: Visit) -> None:
    page = await visit.open('/new?kind=experiment&grid.batch_size=[4,"none"]')
    await expect(page.get_by_label("Batch sizes")).to_have_value("4, none")
    await expect(page.get_by_label("Batch sizes")).to_have_attribute("aria-invalid", "true")


async def test_what_nobody_filled_in_yet_is_not_wrong_yet(visit: Visit) -> None:
    page = await visit.open("/new")
    before = page.get_by_label("What it would cost")
    await expect(before).to_contain_text("Give the batch size to see what it would cost.")
    batch_size = page.get_by_label("Batch size required")
    await expect(batch_size).not_to_have_attribute("aria-invalid", "true")
    await expect(page.locator(".field-problem")).to_have_count(0)
    await page.get_by_role("button", name="Submit the job").click()
    await expect(batch_size).to_have_attribute("aria-invalid", "true")
    await expect(batch_size).to_be_focused()
    await batch_size.fill("4")
    await expect(before).to_contain_text("Computing time")
    await batch_size.fill("")
    await expect(batch_size).to_have_attribute("aria-invalid", "true")
    await expect(before).to_contain_text("Correct the marked fields to see what it would cost.")


async def test_telemetry_is_switched_on_and_off(visit: Visit, submit: Callable[..., str]) -> None:
    job = submit(name="measured", telemetry={"every_epochs": 3})
    page = await visit.open(f"/new?from={job}")
    await expect(page.get_by_label("Every epochs").last).to_have_value("3")
    switch = page.get_by_label("Telemetry", exact=True)
    await expect(switch).to_have_value("on")
    await switch.select_option("Off")
    await expect(page.locator("#field-telemetry-every_epochs")).to_have_count(0)
    await page.get_by_text("The request as JSON").click()
    await expect(page.locator("pre")).not_to_contain_text("telemetry")
    await switch.select_option("On")
    await expect(page.locator("pre")).to_contain_text('"telemetry": {}')


async def test_the_grid_offers_every_normalization_and_every_field_of_the_service(visit: Visit) -> None:
    page = await visit.open("/new?kind=experiment")
    types = page.get_by_role("group", name="Normalizations").get_by_label("Type").locator("option")
    await expect(types).to_have_text([name.replace("_", " ") for name in sorted(NORMALIZATIONS)])
    await page.get_by_label("Another field").select_option("optimizer.learning_rate")
    axis = page.get_by_label("Optimizer learning rate")
    await axis.fill("0.1, 1e-3")
    await page.get_by_label("Another field").select_option("model")
    await page.get_by_label("Model").first.fill("resnet20, vgg")
    await expect(page.get_by_role("button", name="Submit 48 jobs")).to_be_visible()
    await page.get_by_text("The request as JSON").click()
    await expect(page.locator("pre")).to_contain_text('"optimizer.learning_rate": [\n      0.1,\n      0.001\n    ]')
    await page.get_by_role("button", name="Remove model from the grid").click()
    await expect(page.get_by_role("button", name="Submit 24 jobs")).to_be_visible()


async def test_sequential_seeds_take_the_place_of_the_seeds_of_the_grid(visit: Visit) -> None:
    page = await visit.open("/new?kind=experiment")
    await page.get_by_text("Outcome, sequential seeds and tuning").click()
    await page.get_by_label("Sequential seeds").select_option("On")
    await expect(page.get_by_label("Seeds", exact=True)).to_have_count(0)
    await page.locator("#field-seeds-max").fill("4")
    await page.get_by_text("The request as JSON").click()
    await expect(page.locator("pre")).to_contain_text('"seeds": {\n    "max": 4\n  }')
    await page.get_by_label("Sequential seeds").select_option("Off")
    await expect(page.get_by_label("Seeds", exact=True)).to_have_value("0, 1, 2")


async def test_the_usual_experiment_ends_within_ten_minutes_here(visit: Visit, reporter: Reporter) -> None:
    await trained(visit, reporter)
    page = await visit.open("/new?kind=experiment")
    before = page.get_by_label("What it would cost")
    await expect(before).to_contain_text(re.compile(r"Done in about[1-9] min"))
    budgets = page.get_by_role("group", name="Budget")
    await expect(budgets.get_by_role("button", name="1 %", exact=True)).to_have_attribute("aria-pressed", "true")
    await budgets.get_by_role("button", name="Full").click()
    await expect(before).to_contain_text(re.compile(r"Done in about\d+ h"))
    await page.reload()
    await expect(budgets.get_by_role("button", name="Full")).to_have_attribute("aria-pressed", "true")


async def test_more_than_an_hour_of_work_is_confirmed(visit: Visit, reporter: Reporter) -> None:
    await trained(visit, reporter)
    page = await visit.open("/new?kind=experiment&budget=1")
    questions: list[str] = []

    async def decline(dialog: Dialog) -> None:
        questions.append(dialog.message)
        await dialog.dismiss()

    page.once("dialog", decline)
    await page.get_by_role("button", name="Submit 12 jobs").click()
    await expect(page.get_by_role("button", name="Submit 12 jobs")).to_be_enabled()
    assert re.fullmatch(
        r"These 12 jobs take about \d+ h \d+ min here. Based on the speed of .* Submit anyway\?", questions[0]
    )
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Submit 12 jobs").click()
    await expect(page).to_have_url(re.compile("/experiments/exp"))


async def test_before_any_training_the_usual_experiment_is_short_and_longer_ones_are_confirmed(
    visit: Visit, reporter: Reporter
) -> None:
    await two_slots(reporter)
    page = await visit.open("/new?kind=experiment")
    before = page.get_by_label("What it would cost")
    await expect(before).to_contain_text("Estimated from a nominal speed of one CPU core")
    await expect(before).to_contain_text(re.compile(r"Done in about[1-9] min"))
    budgets = page.get_by_role("group", name="Budget")
    await budgets.get_by_role("button", name="Full").click()
    await expect(before).to_contain_text(re.compile(r"Done in about\d+ h"))
    questions: list[str] = []

    async def decline(dialog: Dialog) -> None:
        questions.append(dialog.message)
        await dialog.dismiss()

    page.on("dialog", decline)
    submit = page.get_by_role("button", name="Submit 12 jobs")
    await submit.click()
    await expect(submit).to_be_enabled()
    assert "Estimated from a nominal speed" in questions[0]
    # A dry run that fails says nothing about the cost.
    await page.route("**/v1/experiments?dry_run=true", lambda route: route.fulfill(status=500, json={}))
    await budgets.get_by_role("button", name="1 %", exact=True).click()
    await page.get_by_role("button", name="Submit").last.click()
    await expect(page.get_by_role("button", name="Submit the experiment")).to_be_enabled()
    assert questions[1] == "The service does not say how long this takes. Submit anyway?"
    with Client(visit.api.url) as client:
        assert list(client.jobs()) == []


async def trained(visit: Visit, reporter: Reporter) -> None:
    """Train a job, so that the speed is known: an epoch of CIFAR-10 takes 50 seconds."""
    with Client(visit.api.url) as client:
        client.submit({"normalization": {"type": "batch"}, "batch_size": 8})
    await two_slots(reporter)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, images_per_s=1000.0)
    await reporter.finish()


async def two_slots(reporter: Reporter) -> None:
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 2, "busy": 0, "free": 2}})


async def test_seeds_are_given_as_a_range(visit: Visit) -> None:
    page = await visit.open("/new?kind=experiment")
    seeds = page.get_by_label("Seeds", exact=True)
    await seeds.fill("0-2, 7, 9223372036854775805-9223372036854775807")
    await expect(page.get_by_role("button", name="Submit 28 jobs")).to_be_visible()
    await page.get_by_label("Batch sizes").focus()
    await expect(seeds).to_have_value("0, 1, 2, 7, 9223372036854775805, 9223372036854775806, 9223372036854775807")
    await expect(page.get_by_role("list", name="Normalizations").get_by_role("listitem")).to_have_count(2)
    await seeds.fill("4-0")
    await expect(seeds).to_have_attribute("aria-invalid", "true")
