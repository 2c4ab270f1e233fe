"""The speed of the dashboard in Chromium: frames with 200 live curves, the first table of many jobs, the first figure.

    python tests/benchmarks/dashboard.py [--curves 200] [--seconds 20] [--jobs 1000 100000] [--rates 1.6 10]

An API on SQLite runs in a separate process. All jobs of an experiment run during the measurement: each second a quarter
of them report a row of metrics and their progress, through the functions that the dispatcher uses. Frames are measured
by requestAnimationFrame, and tasks that block the page by the browser's Long Tasks API.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page
from sqlalchemy import insert, select, update

sys.path.insert(0, str(Path(__file__).parents[2]))

from service.dashboard.assets import Assets
from service.experiments.request import ExperimentRequest, expand
from service.store import Database, attempts, experiments, migrate
from service.store.metrics import sort_by_summary, summarize
from service.store.tables import Job, Metric
from tests.benchmarks.store import fill
from tests.dashboard.browser import launched
from worker.events import Metrics, Progress, Started
from worker.spec import TrainingSpec

EPOCHS, REPORTED = 100, 40
ROUNDS = 4
"""Every job reports once in this number of seconds."""
LOADS = 7
FIGURES = 3
LATENCY_MS = 100
TARGET_FRAME_MS, TARGET_TABLE_MS = 50, 1000
OBSERVE = """() => {
    window.observed = { frames: [], tasks: [], shifts: 0, row: null };
    let last = null;
    const frame = (now) => {
        if (last !== null) observed.frames.push(now - last);
        last = now;
        requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
    const watch = (type, take) =>
        new PerformanceObserver((list) => list.getEntries().forEach(take)).observe({ type, buffered: true });
    watch("longtask", (entry) => observed.tasks.push(entry.duration));
    watch("layout-shift", (entry) => (observed.shifts += entry.hadRecentInput ? 0 : entry.value));
    new MutationObserver(() => {
        if (observed.row === null && document.querySelector("table.jobs tbody a")) observed.row = performance.now();
    }).observe(document, { childList: true, subtree: true });
}"""
SHOWN = """(count) => {
    const drawing = document.querySelector("[data-chart=cells]");
    return drawing?.drawn?.series.length === count && drawing.drawn.series.every((one) => one.points.length > 10);
}"""


async def main() -> None:
    """Run the measurements and print their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--jobs", type=int, nargs="*", default=[1000, 100_000])
    parser.add_argument("--rates", type=float, nargs="*", default=[1.6, 10], metavar="MBIT_PER_S")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="PNG", help="save a screenshot of the page with the curves")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{platform.machine()}, {cores} cores, load {os.getloadavg()[0]:.1f} before")
    measured: dict[str, Any] = {"cores": cores, "load_before": os.getloadavg()[0]}
    async with launched() as browser:
        if arguments.curves:
            measured["curves"] = await live_curves(browser, arguments.curves, arguments.seconds, arguments.picture)
        for count in arguments.jobs:
            measured[f"{count} jobs"] = await first_table(browser, count)
        for rate in arguments.rates:
            measured[f"{rate} Mbit/s"] = await first_figure(browser, rate)
    measured["load_after"] = os.getloadavg()[0]
    print(f"load {measured['load_after']:.1f} after")
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=2))


async def live_curves(browser: Browser, count: int, seconds: float, picture: Path | None) -> dict[str, Any]:
    """Measure the frames of an experiment's page while all jobs run, with one curve for each seed."""
    async with serving() as (url, database):
        experiment, running = await start(database, count)
        feeding = asyncio.create_task(feed(database, running))
        page = await opened(browser, f"{url}/experiments/{experiment}?seeds=each")
        await page.wait_for_function(SHOWN, arg=count, timeout=60_000)
        await page.locator("[data-chart=cells]").scroll_into_view_if_needed()
        await asyncio.sleep(3)
        await page.evaluate("Object.assign(observed, { frames: [], tasks: [], shifts: 0 })")
        before = await page.evaluate("document.querySelector('[data-chart=cells]').drawn.series[0].points.length")
        await asyncio.sleep(seconds)
        seen = await page.evaluate("observed")
        after = await page.evaluate("document.querySelector('[data-chart=cells]').drawn.series[0].points.length")
        if picture:
            await page.screenshot(path=picture, full_page=True)
        feeding.cancel()
    assert after > before, "the curves did not grow during the measurement"
    frames = seen["frames"]
    result = {
        "curves": count,
        "seconds": seconds,
        "frames": len(frames),
        "median_ms": statistics.median(frames),
        "p95_ms": statistics.quantiles(frames, n=20)[-1],
        "p99_ms": statistics.quantiles(frames, n=100)[-1],
        "worst_ms": max(frames),
        "above_target": sum(frame > TARGET_FRAME_MS for frame in frames),
        "long_tasks": len(seen["tasks"]),
        "longest_task_ms": max(seen["tasks"], default=0),
        "layout_shift": seen["shifts"],
    }
    print(
        f"{count} live curves, {len(frames)} frames: median {result['median_ms']:.1f} ms, "
        f"p95 {result['p95_ms']:.1f} ms, p99 {result['p99_ms']:.1f} ms, worst {result['worst_ms']:.1f} ms; "
        f"{result['above_target']} frames above {TARGET_FRAME_MS} ms; {result['long_tasks']} long tasks, "
        f"the longest {result['longest_task_ms']:.0f} ms; layout shift {result['layout_shift']:.4f}"
    )
    return result


async def first_table(browser: Browser, count: int) -> dict[str, Any]:
    """Measure the time from the request of the page to the first row of the jobs table, with an empty cache."""
    async with serving() as (url, database):
        await fill(database, count)
        taken, shifts = [], []
        for _ in range(LOADS):
            page = await opened(browser, f"{url}/jobs")
            await page.wait_for_function("() => observed.row !== null", timeout=60_000)
            await asyncio.sleep(0.5)
            seen = await page.evaluate("observed")
            taken.append(seen["row"])
            shifts.append(seen["shifts"])
            await page.context.close()
    result = {"jobs": count, "n": LOADS, "median_ms": statistics.median(taken), "worst_ms": max(taken)}
    result["layout_shift"] = max(shifts)
    reached = "reached" if result["worst_ms"] <= TARGET_TABLE_MS else "missed"
    print(
        f"first table of {count} jobs, n {LOADS}: median {result['median_ms']:.0f} ms, "
        f"worst {result['worst_ms']:.0f} ms (target {TARGET_TABLE_MS} ms {reached}); "
        f"layout shift at most {max(shifts):.4f}"
    )
    return result


async def first_figure(browser: Browser, mbit_per_s: float) -> dict[str, Any]:
    """Measure the time to the values of a job and to its first chart on a slow network, with an empty cache."""
    async with serving() as (url, database):
        await start(database, 4)
        async with database.read() as session:
            job = await session.scalar(select(Job.id).limit(1))
        values, figures = [], []
        for _ in range(FIGURES):
            page = await opened(browser, f"{url}/jobs/{job}", mbit_per_s)
            await page.wait_for_selector("[aria-label=Progress] dd", timeout=60_000)
            values.append(await page.evaluate("performance.now()"))
            await page.wait_for_selector(".main-svg", state="attached", timeout=60_000)
            figures.append(await page.evaluate("performance.now()"))
            await page.context.close()
    result = {"n": FIGURES, "values_ms": statistics.median(values), "figure_ms": statistics.median(figures)}
    print(
        f"at {mbit_per_s} Mbit/s, n {FIGURES}: values of a job after {result['values_ms'] / 1000:.1f} s, "
        f"its first chart after {result['figure_ms'] / 1000:.1f} s (medians); "
        f"plotly.js has {len(Assets().plotly.compressed) / 1e6:.2f} MB in gzip"
    )
    return result


async def opened(browser: Browser, url: str, mbit_per_s: float | None = None) -> Page:
    """Open a page in a new browser context, with the observers installed before it loads."""
    context = await browser.new_context(viewport={"width": 1440, "height": 960})
    page = await context.new_page()
    await page.add_init_script(f"({OBSERVE})()")
    if mbit_per_s is not None:
        network = await context.new_cdp_session(page)
        bytes_per_s = mbit_per_s * 1e6 / 8
        await network.send(
            "Network.emulateNetworkConditions",
            {
                "offline": False,
                "latency": LATENCY_MS,
                "downloadThroughput": bytes_per_s,
                "uploadThroughput": bytes_per_s,
            },
        )
    await page.goto(url)
    return page


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[str, Database]]:
    """Run an API on a new database, in a separate process."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NORMLAB_HOME": folder, "NORMLAB_PORT": "0", "NORMLAB_LOG_LEVEL": "INFO"}
        async with Database(f"sqlite+aiosqlite:///{folder}/normlab.db") as database:
            await migrate.upgrade(database)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "service.app",
                env=environment,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stderr is not None
            output = [""]
            async for line in process.stderr:
                output.append(line.decode())
                if "listening on" in output[-1]:
                    break
            else:
                sys.exit(f"The API did not start: {''.join(output)}")
            drain = asyncio.create_task(process.stderr.read())
            try:
                yield json.loads(output[-1])["url"], database
            finally:
                process.terminate()
                await process.wait()
                drain.cancel()


async def start(database: Database, count: int) -> tuple[str, list[tuple[str, int]]]:
    """Create an experiment of `count` running jobs, each with the metrics of `REPORTED` epochs.

    Returns:
        The id of the experiment, and for each job its attempt and the number of steps per epoch.
    """
    grid = {
        "normalization": [{"type": kind} for kind in ("batch", "group", "layer", "instance")],
        "batch_size": [2, 4, 8, 16, 32],
        "seed": list(range(max(1, count // 20))),
    }
    base = {"epochs": EPOCHS, "dataset": {"name": "synthetic"}}
    request = ExperimentRequest.model_validate({"name": "all at once", "base": base, "grid": grid}).resolved()
    running = []
    now = datetime.now(UTC)
    async with database.write() as session:
        experiment = await experiments.create(session, request, expand(request))
        rows: list[dict[str, Any]] = []
        for number in range(count):
            claimed = await attempts.claim(session, [attempts.FreeWorker(f"worker-{number}", "node-1")])
            assert isinstance(claimed, tuple)
            job, attempt = claimed
            steps = TrainingSpec.model_validate(job.spec).steps_per_epoch
            running.append((attempt.id, steps))
            started = Started(
                seq=1,
                device="cpu",
                precision="float32",
                parameters=269_722,
                steps_per_epoch=steps,
                total_steps=steps * EPOCHS,
                resumed_from_step=0,
                versions={},
            )
            await attempts.record(session, attempt.id, [started], {})
            summary: dict[str, Any] = {}
            for epoch in range(1, REPORTED + 1):
                values = measured_at(number, epoch)
                summary = summarize(summary, epoch * steps, values)
                rows.append({"job_id": job.id, "attempt_id": attempt.id, "seq": epoch + 1, "kind": "eval"})
                rows[-1] |= {"epoch": epoch, "step": epoch * steps, "values": values, "superseded": False}
                rows[-1]["time"] = now + timedelta(seconds=epoch)
            await session.execute(update(Job).where(Job.id == job.id).values(summary=summary))
            await sort_by_summary(session, {job.id: summary})
            attempt.last_seq = REPORTED + 1
        await session.execute(insert(Metric), rows)
    return experiment.id, running


async def feed(database: Database, running: list[tuple[str, int]]) -> None:
    """Report a row of metrics and the progress of a quarter of the attempts each second."""
    for tick in range(ROUNDS * (EPOCHS - REPORTED - 1)):
        began = time.perf_counter()
        epoch = REPORTED + 1 + tick // ROUNDS
        async with database.write() as session:
            for number in range(tick % ROUNDS, len(running), ROUNDS):
                attempt, steps = running[number]
                at = {"epoch": epoch, "step": epoch * steps}
                row = Metrics(seq=2 * epoch, kind="eval", values=measured_at(number, epoch), **at)
                progress = Progress(seq=2 * epoch + 1, images_per_s=1000 + tick, train_loss=0.5, **at)
                await attempts.record(session, attempt, [row, progress], {})
        await asyncio.sleep(max(0, 1 - (time.perf_counter() - began)))


def measured_at(number: int, epoch: int) -> dict[str, float]:
    """Return the metrics of job `number` at the end of an epoch."""
    error = 0.1 + 0.02 * (number % 20) + 0.6 / epoch + 0.01 * ((number * 31 + epoch * 17) % 7)
    return {"test_error": error, "test_loss": 2.5 * error}


if __name__ == "__main__":
    asyncio.run(main())
