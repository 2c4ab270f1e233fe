"""Take screenshots of the dashboard, of the newest experiment of a running service: `make screenshots`.

`python -m tests.dashboard.screenshots [URL]`; by default, of the service that runs on this machine. The screenshots
show the data of this service: the experiment must have trained for them to show results.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page

from service.client import Client
from service.local.home import address_of
from service.settings import Settings
from tests.dashboard.browser import launched

FOLDER = Path("service/dashboard/pictures")
SIZE = {"width": 1440, "height": 960}
READY_MS = 120_000
DRAWN = """() => [...document.querySelectorAll(".drawing")]
    .filter((drawing) => drawing.getBoundingClientRect().top < innerHeight)
    .every((drawing) => drawing.querySelector(".main-svg, canvas"))"""


def pages(client: Client) -> dict[str, str]:
    """Return the addresses of the pages, by name. Raises `LookupError` if there is no experiment."""
    experiment = next(iter(client.experiments.list()), None)
    if experiment is None:
        raise LookupError(f"{client.base_url} has no experiment: submit one, and wait until it has ended.")
    jobs = list(client.jobs(experiment=experiment["id"], sort="created_at"))
    ended = [job for job in jobs if job["status"] == "succeeded"] or jobs
    first: dict[Any, str] = {}
    for job in ended:
        first.setdefault(str(job["spec"]["normalization"]), job["id"])
    # Telemetry is most informative for batch normalization at the smallest batch.
    measured = sorted(
        (job for job in ended if job["spec"].get("telemetry")),
        key=lambda job: (job["spec"]["normalization"]["type"] != "batch", job["spec"]["batch_size"]),
    )
    layers = {"layers": f"/jobs/{measured[0]['id']}?tab=layers"} if measured else {}
    return layers | {
        "experiment": f"/experiments/{experiment['id']}",
        "jobs": f"/jobs?experiment={experiment['id']}",
        "job": f"/jobs/{ended[-1]['id']}",
        "compare": f"/compare?jobs={','.join(list(first.values())[:6])}",
        "new": "/new?kind=experiment",
        "cluster": "/cluster",
    }


async def take(browser: Browser, url: str, wanted: dict[str, str], folder: Path) -> list[Path]:
    """Save a screenshot of each page in each theme, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for theme in ("light", "dark"):
        context = await browser.new_context(viewport=SIZE, color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
        context.set_default_timeout(READY_MS)
        page = await context.new_page()
        for name, path in wanted.items():
            await page.goto(url + path)
            await _ready(page)
            taken.append(folder / f"{name}-{theme}.png")
            await page.screenshot(path=taken[-1])
        await context.close()
    return taken


async def _ready(page: Page) -> None:
    await page.wait_for_selector("main h1")
    await page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
    await page.wait_for_load_state("load")
    await page.wait_for_function(DRAWN)


async def main(url: str | None) -> None:
    """Take all screenshots and print their paths."""
    url = url or address_of(Settings().home)
    if url is None:
        sys.exit("No service runs on this machine: start one with `make up`, or give its URL.")
    with Client(url) as client:
        wanted = pages(client)
    async with launched() as browser:
        for path in await take(browser, url, wanted, FOLDER):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    try:
        asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
    except LookupError as error:
        sys.exit(str(error))
