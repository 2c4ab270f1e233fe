"""The addresses of all pages of the dashboard, the cluster that they show, and when one of them shows everything."""

from typing import Any

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
    "tuned experiment": "/experiments/{tuned}",
    "selected experiments": "/experiments?selected={experiment},{many}",
    "selected jobs": "/jobs?selected={job},{other}",
    "grouped jobs": "/jobs?group=normalization,batch_size",
    "failed job": "/jobs/{failed}",
    "missing": "/jobs/{job}/nothing",
}


DRAWN = """() => [...document.querySelectorAll(".drawing")]
    .every((one) => one.getBoundingClientRect().top >= innerHeight || one.querySelector(".main-svg, canvas"))"""


async def settled(page: Page) -> None:
    """Wait until a page has its data, and its charts in the viewport are drawn."""
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)
    await page.wait_for_function(DRAWN)


def report(job: str | None = None, ray: str = "connected") -> dict[str, Any]:
    """Return what a dispatcher reports on a cluster with one worker, which may train a job."""
    busy = 1 if job else 0
    return {
        "ray": {"status": ray, "address": "10.0.0.1:6379"},
        "slots": {"total": 2, "busy": busy, "free": 2 - busy},
        "nodes": [{"id": "node-1", "address": "10.0.0.1", "cpus": 2, "gpus": 0, "alive": True}],
        "workers": [{"id": "worker-1", "node": "node-1", "pid": 7, "device": "cpu", "state": "busy", "job": job}],
    }
