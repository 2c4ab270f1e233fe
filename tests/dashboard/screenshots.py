"""Take screenshots of the dashboard, of the newest finished experiment of a running service: `make screenshots`.

`python -m tests.dashboard.screenshots [URL] [--widths 390 1366 1440 2560] [--folder FOLDER]`; by default, those of the
documentation, 1440 pixels wide, of the service that runs on this machine. The screenshots
show the data of this service: the experiment must have trained for them to show results.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, ViewportSize

from service.client import Client
from service.local.home import address_of
from service.settings import Settings
from tests.dashboard.browser import launched

FOLDER = Path("service/dashboard/pictures")
WIDTHS = {390: 844, 1366: 768, 1440: 960, 2560: 1440}
"""The widths of phones, laptops and large screens, with their heights."""
DOCUMENTED = 1440
READY_MS = 120_000
DRAWN = """() => [...document.querySelectorAll(".drawing")]
    .filter((drawing) => drawing.getBoundingClientRect().top < innerHeight)
    .every((drawing) => drawing.querySelector(".main-svg, canvas"))"""


def pages(client: Client) -> dict[str, str]:
    """Return the addresses of the pages, by name. Raises `LookupError` if there is no experiment."""
    experiments = list(client.experiments.list())
    finished = [one for one in experiments if one["status"] == "finished"]
    experiment = next(iter(finished or experiments), None)
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
    compared = ",".join(one["id"] for one in experiments[:2])
    comparison = {"comparison": f"/compare?experiments={compared}"} if len(experiments) > 1 else {}
    return (
        layers
        | comparison
        | {
            "experiment": f"/experiments/{experiment['id']}",
            "jobs": f"/jobs?experiment={experiment['id']}",
            "experiments": "/experiments",
            "explore": f"/explore?experiment={experiment['id']}",
            "checkpoints": f"/jobs/{ended[-1]['id']}?tab=checkpoints",
            "job": f"/jobs/{ended[-1]['id']}",
            "compare": f"/compare?jobs={','.join(list(first.values())[:6])}",
            "new": "/new?kind=experiment",
            "cluster": "/cluster",
        }
    )


async def take(
    browser: Browser, url: str, wanted: dict[str, str], folder: Path, widths: Sequence[int] = (DOCUMENTED,)
) -> list[Path]:
    """Save a screenshot of each page in each theme and width, and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    for theme, width in product(("light", "dark"), widths):
        size: ViewportSize = {"width": width, "height": WIDTHS[width]}
        ending = "" if width == DOCUMENTED else f"-{width}"
        context = await browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
        context.set_default_timeout(READY_MS)
        page = await context.new_page()
        for name, path in wanted.items():
            await page.goto(url + path)
            await _ready(page)
            taken.append(folder / f"{name}-{theme}{ending}.png")
            await page.screenshot(path=taken[-1])
        await context.close()
    return taken


async def _ready(page: Page) -> None:
    await page.wait_for_selector("main h1")
    await page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
    await page.wait_for_load_state("load")
    await page.wait_for_function(DRAWN)


async def main(url: str | None, widths: Sequence[int], folder: Path) -> None:
    """Take all screenshots and print their paths."""
    url = url or address_of(Settings().home)
    if url is None:
        sys.exit("No service runs on this machine: start one with `make up`, or give its URL.")
    with Client(url) as client:
        wanted = pages(client)
    async with launched() as browser:
        for path in await take(browser, url, wanted, folder, widths):
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", nargs="?")
    parser.add_argument("--widths", type=int, nargs="+", choices=WIDTHS, default=[DOCUMENTED])
    parser.add_argument("--folder", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    try:
        asyncio.run(main(arguments.url, arguments.widths, arguments.folder))
    except LookupError as error:
        sys.exit(str(error))
