"""The page of a job: live curves, log, checkpoints, and the possible actions."""

import base64
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from playwright.async_api import expect

from service.client import Client
from service.store import retention
from tests.dashboard.conftest import Visit
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_evaluations import computed
from worker.events import Failure, Finished, Log, Usage

pytestmark = pytest.mark.anyio


async def test_a_job_is_watched_from_the_queue_to_its_end(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit("group", 4, name="watched", epochs=10)
    page = await visit.open(f"/jobs/{job}")
    heading = page.locator(".heading")
    await expect(heading).to_contain_text("queued")
    await reporter.start()
    await expect(heading).to_contain_text("running")
    await reporter.progress(50, images_per_s=1234.0, train_loss=0.75)
    await expect(page.get_by_label("Progress", exact=True)).to_contain_text("1\u202f234")
    await expect(page.get_by_text("3.24 ms per step")).to_be_visible()
    for epoch in (1, 2, 3):
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch, test_loss=1.0 / epoch)
    await expect(page.get_by_label("Progress", exact=True)).to_contain_text("16.67 %")
    await expect(page.get_by_role("figure", name="Error: error (%)")).to_have_attribute(
        "aria-label", "Error: error (%) by epoch. test error ends at 16.67 %"
    )
    await expect(page.locator(".js-plotly-plot").first).to_be_visible()
    await reporter.finish()
    await expect(heading).to_contain_text("succeeded")
    await expect(page.locator(".history")).to_contain_text("succeeded")


async def test_every_chart_is_a_table_too(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    job = submit(epochs=10)
    await reporter.start()
    for epoch in (1, 2):
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
    page = await visit.open(f"/jobs/{job}?x=step")
    await page.get_by_role("button", name="Show as table").first.click()
    table = page.get_by_role("region", name="error (%) by optimizer step")
    assert await table.locator("tbody tr").all_inner_texts() == ["10\t50.00 %", "20\t25.00 %"]
    await page.reload()
    await expect(table).to_contain_text("25.00 %")


async def test_the_curves_of_a_job_are_exported_for_a_paper(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit()
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, test_loss=2.0)
    page = await visit.open(f"/jobs/{job}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Error", exact=True))
    await card.locator("summary", has_text="Export").click()
    async with page.expect_download() as started:
        await card.get_by_role("button", name="PDF, two columns").click()
    download = await started.value
    assert download.suggested_filename == f"{job}-error.pdf"
    assert (await download.path()).read_bytes().startswith(b"%PDF")
    throughput = page.locator(".card", has=page.get_by_role("heading", name="Throughput"))
    await expect(throughput.locator("summary")).to_have_count(0)


async def test_curves_that_could_not_be_read_are_read_with_the_next_event(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(epochs=10)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await visit.context.route("**/v1/curves?*", lambda route: route.abort(), times=1)
    page = await visit.open(f"/jobs/{job}?x=step&tables=error")
    await expect(page.get_by_role("button", name="Try again")).to_be_visible()
    await reporter.metrics("eval", 2, 20, test_error=0.25)
    rows = page.get_by_role("region", name="error (%) by optimizer step").locator("tbody tr")
    await expect(rows).to_have_text([re.compile("50.00 %"), re.compile("25.00 %")])


async def test_what_an_attempt_that_was_lost_had_reported_beyond_its_checkpoint_leaves_the_curve(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(epochs=10)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
    await reporter.metrics("eval", 2, 20, test_error=0.25)
    page = await visit.open(f"/jobs/{job}?x=step&tables=error")
    table = page.get_by_role("region", name="error (%) by optimizer step")
    await expect(table.locator("tbody tr")).to_have_count(2)
    await reporter.lose()
    await reporter.start(resumed_from_step=10)
    await expect(table.locator("tbody tr")).to_have_count(1)
    await expect(page.locator(".history")).to_contain_text("the node went away")
    await reporter.metrics("eval", 2, 20, test_error=0.125)
    await expect(table.locator("tbody tr")).to_have_text(["1050.00 %", "2012.50 %"])


async def test_the_log_is_text_follows_and_is_searched(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit()
    await reporter.start()
    await reporter.log("<script>window.hurt = 1</script>", "warning")
    page = await visit.open(f"/jobs/{job}?tab=logs")
    lines = page.get_by_role("log").get_by_role("listitem")
    await expect(lines).to_have_count(1)
    await expect(lines.first).to_contain_text("<script>window.hurt = 1</script>")
    assert await page.evaluate("window.hurt") is None
    await reporter.log("the second line")
    await expect(lines).to_have_count(2)
    await page.get_by_role("searchbox").fill("SECOND")
    await expect(lines).to_have_count(1)
    await expect(lines.locator("mark")).to_have_text("second")
    await reporter.log("nothing of it")
    await reporter.log("another second")
    await expect(lines).to_have_count(2)
    await expect(page).to_have_url(f"{visit.api.url}/jobs/{job}?tab=logs&q=SECOND")


async def test_the_whole_log_is_downloaded(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    job = submit()
    await reporter.start()
    lines = [f"line {number}" for number in range(2500)]
    await reporter.report(*(Log(level="info", message=line) for line in lines))
    page = await visit.open(f"/jobs/{job}?tab=logs")
    await expect(page.get_by_text("500 earlier lines are not shown")).to_be_visible()

    async def downloaded(button: str) -> list[str]:
        async with page.expect_download() as started:
            await page.get_by_role("button", name=button, exact=True).click()
        text = (await (await started.value).path()).read_text()
        return [line.split(" info ")[1] for line in text.splitlines()]

    assert await downloaded("Download") == lines
    await page.get_by_label("Search the log").fill("line 7")
    assert await downloaded("Download matching lines") == [line for line in lines if "line 7" in line]


async def test_a_job_that_ended_without_a_checkpoint_does_not_promise_one(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit()
    await reporter.start()
    page = await visit.open(f"/jobs/{job}?tab=checkpoints")
    await expect(page.get_by_role("heading", name="No checkpoint yet")).to_be_visible()
    await reporter.finish()
    await expect(page.get_by_role("heading", name="No checkpoint", exact=True)).to_be_visible()


async def test_a_checkpoint_is_downloaded_as_it_was_stored(
    visit: Visit, submit: Callable[..., str], reporter: Reporter, tmp_path: Path
) -> None:
    weights = bytes(range(256)) * 5000
    job = submit()
    await reporter.start()
    page = await visit.open(f"/jobs/{job}?tab=checkpoints")
    await expect(page.get_by_role("heading", name="No checkpoint yet")).to_be_visible()
    await reporter.checkpoint(1, 10, {"model.safetensors": weights, "state.pt": b"state"}, test_error=0.25)
    row = page.get_by_role("row").filter(has_text="model.safetensors")
    await expect(row).to_contain_text("1.3 MB")
    await expect(row).to_contain_text(hashlib.sha256(weights).hexdigest()[:12])
    async with page.expect_download() as started:
        await page.get_by_role("link", name="Download model.safetensors of step 10").click()
    download = await started.value
    await download.save_as(tmp_path / "downloaded")
    assert (tmp_path / "downloaded").read_bytes() == weights
    assert download.suggested_filename == "model.safetensors"


async def test_a_job_is_paused_resumed_and_cancelled(visit: Visit, submit: Callable[..., str]) -> None:
    job = submit()
    page = await visit.open(f"/jobs/{job}")
    heading = page.locator(".heading")
    await page.get_by_role("button", name="Pause").click()
    await expect(heading).to_contain_text("paused")
    await page.get_by_role("button", name="Resume").click()
    await expect(heading).to_contain_text("queued")
    page.once("dialog", lambda dialog: dialog.dismiss())
    await page.get_by_role("button", name="Cancel").click()
    await expect(heading).to_contain_text("queued")
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.get_by_text("Cancellation requested.").first).to_be_visible()
    await expect(heading).to_contain_text("cancelled")
    await expect(page.get_by_label("Progress", exact=True)).to_contain_text("Duration")
    await page.get_by_role("link", name="Effective configuration").click()
    await expect(page.get_by_role("heading", name="Effective configuration")).to_be_visible()
    configuration = page.get_by_role("region", name="Effective configuration")
    await expect(configuration.get_by_role("rowheader", name="batch_size", exact=True)).to_be_visible()
    await page.get_by_role("button", name="Retry").click()
    await expect(page).not_to_have_url(f"{visit.api.url}/jobs/{job}")
    await expect(heading).to_contain_text("queued")
    await expect(page.get_by_role("link", name=job)).to_be_visible()


async def test_a_succeeded_job_is_extended_or_says_why_not(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    fixed = submit(epochs=2, schedule={"type": "cosine"})
    await reporter.start()
    await reporter.finish()
    job = submit(epochs=2, schedule={"type": "constant"}, name="to be extended")
    await reporter.start()
    await reporter.checkpoint(2, 20, {"state.pt": b"x"}, test_error=0.5)
    await reporter.finish()
    page = await visit.open(f"/jobs/{fixed}")
    page.once("dialog", lambda dialog: dialog.accept("6"))
    await page.get_by_role("button", name="Extend").click()
    await expect(page.locator(".toast")).to_contain_text("its schedule is cosine, and its rate falls over the whole")

    page = await visit.open(f"/jobs/{job}")
    page.once("dialog", lambda dialog: dialog.dismiss())
    await page.get_by_role("button", name="Extend").click()
    page.once("dialog", lambda dialog: dialog.accept("6"))
    await page.get_by_role("button", name="Extend").click()
    await expect(page.get_by_text("– / 6")).to_be_visible()
    await page.get_by_role("link", name=job).click()
    await expect(page).to_have_url(f"{visit.api.url}/jobs/{job}")


async def test_running_averages_and_the_statistics_of_batches_stand_side_by_side(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(batch_size=4, epochs=2)
    await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
    await reporter.finish()
    page = await visit.open(f"/jobs/{job}?tab=checkpoints")
    await page.get_by_role("button", name="Running averages against batches").click()
    await expect(page.get_by_role("region", name="Evaluations").locator("tbody tr")).to_have_count(2)
    pair = page.get_by_role("region", name="Running averages against batch statistics")
    await expect(pair).to_have_count(0)
    await computed(reporter.database)
    better = [[4, *[0] * 9], *[[0] * 10 for _ in range(9)]]
    await computed(reporter.database, batch_statistics=4, error=0.0, loss=0.25, confusion=better)
    await expect(pair.locator("thead th")).to_have_text(["Quantity", "running averages", "batches of 4", "difference"])
    error, loss, airplane = (pair.get_by_role("row", name=name) for name in ("Error 2", "Loss", "Error of airplane"))
    minus = "\N{MINUS SIGN}"
    await expect(error.locator("td")).to_have_text(["25.00 %", "0.00 %", f"{minus}25.00"])
    await expect(loss.locator("td")).to_have_text(["0.5", "0.25", f"{minus}0.25"])
    await expect(airplane.locator("td")).to_have_text(["25.00 %", "0.00 %", f"{minus}25.00"])


async def test_a_checkpoint_is_evaluated_by_the_statistics_of_batches_and_shows_its_mistakes(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(epochs=2)
    await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
    await reporter.finish()
    page = await visit.open(f"/jobs/{job}?tab=checkpoints")
    await expect(page.get_by_text("No checkpoint was evaluated yet.")).to_be_visible()
    await page.get_by_label("Normalized by").select_option("4")
    await page.get_by_label("Precision").select_option("bfloat16")
    await page.get_by_role("button", name="Evaluate").click()
    row = page.get_by_role("region", name="Evaluations").locator("tbody tr")
    await expect(row).to_contain_text("batches of 4")
    await expect(row).to_contain_text("bfloat16")
    await expect(row).to_contain_text("queued")

    pixels = base64.b64encode(bytes([255, 0, 0] * 1024)).decode()
    mistake = {"index": 7, "label": 0, "predicted": 1, "confidence": 0.75, "pixels": pixels}
    await computed(reporter.database, batch_statistics=4, mistakes=[mistake])
    await expect(row).to_contain_text("25.00 %")
    matrix = page.get_by_role("region", name="Confusion matrix").locator("tbody tr").first
    await expect(matrix.locator("td")).to_have_text(["3", "1", *["0"] * 8, "25.00 %"])
    image = page.get_by_role("img", name="airplane, taken for automobile (75.00 %)")
    await expect(image).to_be_visible()
    red = "canvas => [...canvas.getContext('2d').getImageData(31, 31, 1, 1).data].join()"
    assert await image.evaluate(red) == "255,0,0,255"

    await page.get_by_label("Normalized by").select_option("precise")
    await page.get_by_role("button", name="Evaluate").click()
    await expect(row).to_have_count(2)
    await expect(row.first).to_contain_text(re.compile("10.000 training images"))


async def test_a_failure_says_why_and_a_deleted_job_is_gone(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(name="doomed")
    await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="The loss is not finite.", step=3, may_pass=False))
    page = await visit.open(f"/jobs/{job}")
    await expect(page.get_by_text("The loss diverged")).to_be_visible()
    await expect(page.locator(".notice")).to_contain_text("The loss is not finite.")
    page.once("dialog", lambda dialog: dialog.accept())
    await page.get_by_role("button", name="Delete").click()
    await expect(page).to_have_url(f"{visit.api.url}/jobs")
    with Client(visit.api.url) as client:
        assert list(client.jobs()) == []


async def test_the_upload_and_the_logo_of_the_charts_are_off(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(epochs=10)
    await reporter.start()
    for epoch in (1, 2):
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
    page = await visit.open(f"/jobs/{job}")
    plot = page.locator(".js-plotly-plot").first
    await plot.hover()
    await expect(plot.locator(".modebar-btn").first).to_be_visible()
    titles = await plot.locator(".modebar-btn").evaluate_all("all => all.map(one => one.dataset.title)")
    assert titles
    assert not [title for title in titles if "plotly" in title.lower() or "cloud" in title.lower()]
    config = await plot.evaluate("element => element._context")
    assert (config["showSendToCloud"], config["plotlyServerURL"], config["displaylogo"]) == (False, "", False)


async def test_a_job_is_named_labelled_and_noted_on_and_others_see_it(visit: Visit, submit: Callable[..., str]) -> None:
    job = submit(name="first", labels={"study": "paper", "who": "ann"})
    page, other = await visit.open(f"/jobs/{job}"), await visit.open(f"/jobs/{job}")
    card = page.locator(".card", has=page.get_by_role("heading", name="Notes and labels"))
    await expect(card.get_by_role("link", name="study: paper")).to_be_visible()
    await card.get_by_role("button", name="Edit").click()
    await expect(card.get_by_label("Name")).to_be_focused()
    await card.get_by_label("Name").fill("second")
    await card.get_by_label("Labels").fill("study:paper, a:b:c")
    await card.get_by_label("Notes").fill("seen <i>odd</i>\nat epoch 3")
    await card.get_by_role("button", name="Save").click()
    for one in (page, other):
        await expect(one.get_by_role("heading", name="second")).to_be_visible()
        await expect(one.locator(".notes")).to_have_text("seen <i>odd</i>\nat epoch 3", use_inner_text=True)
        await expect(one.locator(".card").get_by_role("link", name="a: b:c")).to_be_visible()
        await expect(one.get_by_role("link", name="who: ann")).to_have_count(0)
    await card.get_by_role("button", name="Edit").click()
    await card.get_by_label("Labels").fill(f"{'x' * 101}:y")
    await card.get_by_role("button", name="Save").click()
    await expect(card.get_by_role("alert")).to_be_visible()
    await card.get_by_role("button", name="Discard changes").click()
    await expect(card.get_by_role("link", name="study: paper")).to_be_visible()


async def test_telemetry_is_a_strip_a_layer_and_a_table(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    without, job = submit(priority=-1), submit(telemetry={}, epochs=10)
    page = await visit.open(f"/jobs/{without}")
    await expect(page.get_by_role("link", name="Logs")).to_be_visible()
    await expect(page.get_by_role("link", name="Layers")).to_have_count(0)

    await reporter.start()
    page = await visit.open(f"/jobs/{job}?tab=layers")
    await expect(page.get_by_text("Nothing measured yet")).to_be_visible()
    for epoch in (1, 2):
        values = {f"{layer}/mean_gap": 0.5 / epoch for layer in ("stem_norm", "stages.0.0.norm1")}
        values |= {f"{layer}/gain_rms": 1.0 for layer in ("stem_norm", "stages.0.0.norm1")}
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5)
        await reporter.metrics("telemetry", epoch, 10 * epoch, train_mode_error=0.25, eval_mode_error=0.5, **values)
    strips = page.get_by_role("region", name="Mean gap by layer and epoch")
    await expect(strips.locator("tbody th")).to_have_text(["stem_norm", "stages.0.0.norm1"])
    await expect(strips.locator("tbody td")).to_have_count(4)
    await expect(strips.locator("tbody td").first).to_have_attribute("title", "stem_norm, epoch 1: 0.5")
    await expect(page.get_by_role("figure")).to_have_attribute(
        "aria-label", re.compile("error in evaluation mode ends at 50.00 %; error in training mode ends at 25.00 %")
    )
    await page.get_by_role("button", name="Gain RMS").click()
    await page.get_by_role("button", name="Show as table").first.click()
    await expect(page.get_by_role("region", name="Gain RMS by layer and epoch").locator("tbody tr").first).to_have_text(
        "stem_norm11"
    )
    await page.reload()
    await expect(page.get_by_role("region", name="Gain RMS by layer and epoch")).to_be_visible()
    await expect(page.get_by_label("Progress", exact=True)).to_contain_text("50.00 %")


async def test_telemetry_has_percentiles_of_a_layer_and_curves_of_the_gradient(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(telemetry={}, epochs=10)
    await reporter.start()
    for epoch in (1, 2):
        values = {
            f"{layer}/percentile_{percent}": epoch * percent / scale
            for scale, layer in ((100, "stem_norm"), (10, "stages.0.0.norm1"))
            for percent in (1, 20, 80, 99)
        }
        values |= {"gradient_norm": 2.0, "gradient_distance_min": 0.25, "gradient_distance_max": 1.5 * epoch}
        values |= {"step_loss_min": 1.0, "step_loss_max": 1.25, "effective_smoothness": 7.5}
        await reporter.metrics("telemetry", epoch, 10 * epoch, **{"stem_norm/gain_rms": 1.0}, **values)
    page = await visit.open(f"/jobs/{job}?tab=layers")
    await expect(page.get_by_role("figure")).to_have_count(4)
    features = page.locator("[data-chart=features]")
    await expect(features).to_have_attribute("aria-label", re.compile("1st percentile ends at 0.2; .*at 19.8$"))
    await page.get_by_label("Layer of the features").select_option("stem_norm")
    await expect(features).to_have_attribute("aria-label", re.compile("1st percentile ends at 0.02; .*at 1.98$"))
    gradient = page.locator("[data-chart=gradient]")
    await expect(gradient).to_have_attribute("aria-label", re.compile("greatest gradient distance ends at 3$"))
    await expect(page.get_by_role("button", name="1st percentile")).to_have_count(1)
    await page.reload()
    await expect(features).to_have_attribute("aria-label", re.compile("1st percentile ends at 0.02; "))


async def test_the_workers_of_an_attempt_are_named(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(batch_size=4, num_workers=3)
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 2, "busy": 0, "free": 2}})
    page = await visit.open(f"/jobs/{job}")
    await expect(page.get_by_text("It does not start yet")).to_be_visible()
    await expect(page.get_by_text("the cluster has room for 2")).to_be_visible()
    await expect(page.locator(".heading")).to_contain_text("batch size 4 × 3 workers")
    await reporter.start(workers=3)
    await expect(page.get_by_text("It does not start yet")).to_have_count(0)
    attempts = page.get_by_role("region", name="Attempts")
    await attempts.get_by_text("worker-1 on node-1 and 2 more").click()
    await expect(attempts.get_by_role("listitem")).to_have_text(
        ["rank 0: worker-1 on node-1", "rank 1: worker-2 on node-2", "rank 2: worker-3 on node-3"]
    )


async def test_an_attempt_shows_what_it_used(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    job = submit()
    await reporter.start()
    await reporter.progress(5, usage=Usage(cpu_s=125, peak_memory_bytes=2_100_000_000))
    await reporter.lose()
    page = await visit.open(f"/jobs/{job}")
    attempts = page.get_by_role("region", name="Attempts")
    await expect(attempts.get_by_role("columnheader", name="Peak memory")).to_be_visible()
    await expect(attempts.get_by_role("columnheader", name="Peak GPU memory")).to_have_count(0)
    await expect(attempts.get_by_role("cell", name="2 min 5 s")).to_be_visible()
    await expect(attempts.get_by_role("cell", name="2.1 GB")).to_be_visible()
    await reporter.start()
    await reporter.report(
        Finished(
            outcome="succeeded",
            usage=Usage(cpu_s=3, peak_memory_bytes=10**9, peak_gpu_memory_bytes=5 * 10**9, gpu_utilization=0.874),
        )
    )
    await expect(attempts.get_by_role("columnheader", name="Peak GPU memory")).to_be_visible()
    await expect(attempts.get_by_role("cell", name="5.0 GB")).to_be_visible()
    await expect(attempts.get_by_role("cell", name="87 %")).to_be_visible()


async def test_a_queued_job_shows_its_place_and_a_priority_that_can_be_changed(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    submit(name="trains")
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 1, "busy": 1, "free": 0}})
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, images_per_s=1000.0)
    submit(name="ahead")
    job = submit(name="waits")
    page = await visit.open(f"/jobs/{job}")
    queue = page.get_by_role("region", name="Queue")
    await expect(queue).to_contain_text("Position in the queue2 of 2")
    await expect(queue).to_contain_text(re.compile(r"Expected startin about \d+ min"))
    page.once("dialog", lambda dialog: dialog.accept("5"))
    await queue.get_by_role("button", name="Change the priority").click()
    await expect(queue).to_contain_text("Position in the queue1 of 2")
    await expect(queue).to_contain_text("Priority5")


async def test_checkpoints_that_retention_has_removed_are_counted(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit()
    await reporter.start()
    for step in (10, 20):
        await reporter.checkpoint(1, step, {"state.pt": b"x"}, test_error=1 / step)
    await reporter.finish()
    async with reporter.database.write() as session:
        await retention.remove(session, job, "best-and-last", datetime.now(UTC))
    page = await visit.open(f"/jobs/{job}?tab=checkpoints")
    await expect(page.get_by_role("region", name="Checkpoints").locator("tbody tr")).to_have_count(1)
    await expect(page.get_by_text("1 checkpoint was removed some time after the end of the job")).to_be_visible()
    async with reporter.database.write() as session:
        await retention.remove(session, job, "none", datetime.now(UTC))
    await page.reload()
    await expect(page.get_by_text("No checkpoint any more")).to_be_visible()
