"""The page that compares jobs: specifications, metrics and curves."""

import asyncio
from collections.abc import Callable

import pytest
from playwright.async_api import expect

from tests.dashboard.conftest import Visit, held_until
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def test_a_name_does_not_turn_the_value_behind_it(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    turned = "\u202ename"
    ids = [submit(name=name, epochs=10) for name in (turned, "other")]
    for _ in ids:
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        await reporter.finish()
    page = await visit.open(f"/compare?jobs={','.join(ids)}")
    await page.wait_for_selector(".main-svg")
    told = await page.evaluate(
        """[...document.querySelectorAll('.js-plotly-plot')]
            .flatMap(({ data }) => data.flatMap(({ text }) => text ?? []))"""
    )
    assert f"\u2068{turned}\u2069: 50.00 %" in told
    assert "other: 50.00 %" in told


async def batch_and_layer(submit: Callable[..., str], reporter: Reporter) -> list[str]:
    """Train with `batch`, to an error of 50 %, and with `layer`, to 25 %. Returns the ids of the jobs."""
    ids = [submit(normalization, 4, name=normalization, epochs=10) for normalization in ("batch", "layer")]
    for error in (0.5, 0.25):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    return ids


async def test_selected_jobs_are_compared_by_what_differs(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    ids = await batch_and_layer(submit, reporter)
    page = await visit.open("/jobs")
    for name in ("batch", "layer"):
        await page.get_by_role("checkbox", name=f"Select {name}").check()
    await page.get_by_role("link", name="Compare").click()
    spec = page.get_by_role("region", name="Specification")
    await expect(spec.locator("tbody th")).to_have_text(["normalization.type", "normalization.momentum"])
    await page.get_by_role("button", name="Everything").click()
    await expect(spec.get_by_role("rowheader", name="optimizer.learning_rate")).to_be_visible()
    best = page.get_by_role("region", name="Metrics").get_by_role("row").filter(has_text="best test error")
    await expect(best.get_by_role("cell")).to_have_text(["50.00 %", "✓ 25.00 %"])
    await expect(page.get_by_role("figure")).to_have_count(1)
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await expect(copied.get_by_role("button", name="Everything")).to_have_attribute("aria-pressed", "true")
    await copied.get_by_role("link", name="layer").first.click()
    await expect(copied).to_have_url(f"{visit.api.url}/jobs/{ids[1]}")


async def test_the_others_show_their_differences_to_a_pinned_job(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    ids = await batch_and_layer(submit, reporter)
    page = await visit.open(f"/compare?jobs={','.join(ids)}")
    await page.get_by_role("combobox", name="Differences to").select_option(label="Differences to batch")
    row = page.get_by_role("region", name="Metrics").get_by_role("row").filter(has_text="last test error")
    await expect(row.get_by_role("cell")).to_have_text(["50.00 %", "✓ 25.00 % \N{MINUS SIGN}25.00"])
    await expect(page.locator(".legend button")).to_have_text(["batch", "layer (\N{MINUS SIGN}25.00)"])
    copied = await visit.open(page.url.removeprefix(visit.api.url))
    await expect(copied.get_by_role("combobox", name="Differences to")).to_have_value(ids[0])


async def test_a_chart_and_the_cluster_do_not_say_that_there_is_nothing_while_they_are_read(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(name="ran", epochs=10)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await reporter.finish()
    answered = asyncio.Event()
    for path in ("**/v1/curves?*", "**/v1/cluster", "**/v1/storage?*"):
        await visit.context.route(path, held_until(answered))
    compared = await visit.open(f"/compare?jobs={job}")
    chart = compared.locator(".card[aria-busy=true]")
    await expect(chart).to_contain_text("Reading the values…")
    cluster = await visit.open("/cluster")
    await expect(cluster.locator("[aria-busy=true]")).to_have_text("Asking the cluster…")
    answered.set()
    await expect(compared.get_by_role("figure")).to_have_count(1)
    await expect(chart).to_have_count(0)


async def test_smoothing_starts_at_the_data_and_keeps_the_raw_values(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    job = submit(epochs=10)
    await reporter.start()
    for step, loss in enumerate((4.0, 2.0, 2.0), 1):
        await reporter.metrics("train", 1, step, train_loss=loss)
    page = await visit.open(f"/compare?jobs={job}&metric=train_loss&x=step&smooth=0.5&tables=curves")
    rows = page.get_by_role("region", name="train loss by optimizer step").locator("tbody tr")
    # 4; (0.5·4 + 2)/1.5; (0.25·4 + 0.5·2 + 2)/1.75: weights that sum to one from the first value on.
    await expect(rows).to_have_text(["14", "22.667", "32.286"])
    await page.get_by_label("Smoothing").fill("0")
    await expect(rows).to_have_text(["14", "22", "32"])


async def test_a_curve_grows_while_it_is_compared(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    ids = [submit(name=name, epochs=10) for name in ("one", "two")]
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    page = await visit.open(f"/compare?jobs={','.join(ids)}&x=step&tables=curves")
    rows = page.get_by_role("region", name="test error (%) by optimizer step").locator("tbody tr")
    await expect(rows).to_have_count(1)
    await reporter.metrics("eval", 2, 20, test_error=0.25)
    await expect(rows).to_have_count(2)


async def test_no_learning_rate_is_marked_as_the_best(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    ids = [submit(name=name, epochs=10) for name in ("one", "two")]
    for rate in (0.1, 0.01):
        await reporter.start()
        await reporter.metrics("train", 1, 10, learning_rate=rate)
        await reporter.finish()
    page = await visit.open(f"/compare?jobs={','.join(ids)}")
    last = page.get_by_role("region", name="Metrics").get_by_role("row").filter(has_text="last learning rate")
    await expect(last.get_by_role("cell")).to_have_text(["0.1", "0.01"])


async def test_a_curve_begins_while_its_job_is_compared(
    visit: Visit, submit: Callable[..., str], reporter: Reporter
) -> None:
    held_out = {"train_limit": 10_000, "holdout": 1000}
    ids = [submit(name=name, epochs=10, dataset=held_out) for name in ("one", "two")]
    page = await visit.open(f"/compare?jobs={','.join(ids)}&x=step&tables=curves")
    await expect(page.get_by_role("region", name="Metrics")).to_be_visible()
    await reporter.start()
    await reporter.metrics("train", 1, 5, train_loss=2.0)
    await expect(page.get_by_role("region", name="train loss by optimizer step").locator("tbody tr")).to_have_count(1)
    await reporter.metrics("eval", 1, 10, holdout_error=0.5)
    rows = page.get_by_role("region", name="holdout error (%) by optimizer step").locator("tbody tr")
    await expect(rows).to_have_count(1)
    await reporter.metrics("eval", 2, 20, holdout_error=0.25)
    await expect(rows).to_have_count(2)


async def test_curves_and_tables_are_exported(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    ids = [submit(name=name, epochs=10, batch_size=size) for name, size in (('one, "a"', 2), ("two", 8))]
    for _ in ids:
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        await reporter.finish()
    page = await visit.open(f"/compare?jobs={','.join(ids)}&metric=test_error&x=step")
    cases = {
        "Test error": (
            "CSV of what is drawn",
            'series,"Optimizer step [cifar10 (train_limit 10000, test_limit 2000)]",Test error (%),low,high\r\n'
            '"one, ""a""",10,50.0,,\r\n',
        ),
        "Metrics": ("CSV of this table", 'Metric,"one, ""a""",two\r\nstatus,succeeded,succeeded\r\nbest test error,'),
        "Specification": ("CSV of this table", 'Field,"one, ""a""",two\r\n'),
    }
    for heading, (entry, begins) in cases.items():
        card = page.locator(".card", has=page.get_by_role("heading", name=heading, exact=True))
        await card.locator("summary", has_text="Export").click()
        async with page.expect_download() as started:
            await card.get_by_role("button", name=entry).click()
        assert (await (await started.value).path()).read_bytes().decode().startswith(begins), heading


async def test_no_name_becomes_a_link_of_a_chart(visit: Visit, submit: Callable[..., str], reporter: Reporter) -> None:
    job = submit(name='<a href="https://example.org">here</a>', epochs=10)
    await reporter.start()
    for step in (10, 20):
        await reporter.metrics("eval", 1, step, test_error=0.5)
    page = await visit.open(f"/compare?jobs={job}")
    plot = page.locator(".js-plotly-plot .nsewdrag")
    box = await plot.bounding_box()
    assert box is not None
    await plot.hover(position={"x": 3, "y": box["height"] / 2})
    await expect(page.locator(".js-plotly-plot .hoverlayer")).to_contain_text("\u2039a href")
    assert await page.locator(".js-plotly-plot a:not(.modebar-btn)").count() == 0


async def test_nothing_to_compare_says_how_to_choose(visit: Visit) -> None:
    page = await visit.open("/compare")
    await expect(page.get_by_role("heading", name="Nothing to compare")).to_be_visible()
