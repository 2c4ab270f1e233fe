"""The addresses of all pages of the dashboard, and when one of them shows everything."""

from playwright.async_api import Page, expect

PAGES = {
    "jobs": "/jobs",
    "job": "/jobs/{job}",
    "logs": "/jobs/{job}?tab=logs",
    "checkpoints": "/jobs/{job}?tab=checkpoints",
    "specification": "/jobs/{job}?tab=spec",
    "compare": "/compare?jobs={job},{other}",
    "compared experiments": "/compare?experiments={experiment},{many}",
    "explore": "/explore",
    "new job": "/new",
    "new experiment": "/new?kind=experiment",
    "cluster": "/cluster",
    "docs": "/docs",
    "experiments": "/experiments",
    "experiment": "/experiments/{experiment}",
    "layers": "/jobs/{job}?tab=layers",
    "layers as a table": "/jobs/{job}?tab=layers&tables=layers,modes",
    "every seed": "/experiments/{many}?seeds=each",
}


DRAWN = """() => [...document.querySelectorAll(".drawing")]
    .every((one) => one.getBoundingClientRect().top >= innerHeight || one.querySelector(".main-svg, canvas"))"""


async def settled(page: Page) -> None:
    """Wait until a page has its data, and its charts in the viewport are drawn."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)
    await page.wait_for_function(DRAWN)
