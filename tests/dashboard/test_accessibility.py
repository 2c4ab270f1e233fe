"""Every page passes axe-core's rules in both themes, and fits the narrowest and the widest screen."""

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import Api, Visit
from tests.dashboard.test_cluster import report
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_evaluations import computed
from worker.events import Failure

pytestmark = pytest.mark.anyio
AXE = (files("axe_core_python") / "axe.min.js").read_text()

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
# The panels that a button opens, by the page on which they are opened.
MENUS = {"experiment": ["Export", "Views"], "jobs": ["Columns"], "job": ["Export"]}
ROUTES = (files("service.dashboard") / "static/app.js").read_text().split("const ROUTES = [")[1].split("];")[0]


def page_at(path: str) -> str:
    """Return the page that the router in the browser shows at a path."""
    for pattern, pages in re.findall(r"\[/(.+)/, (.+)\],", ROUTES):
        if re.search(pattern.replace(r"\/", "/"), path.partition("?")[0]):
            *others, last = re.findall(r'"(\w+)"', pages.replace('url.get("experiments")', ""))
            shown: str = last if not others or "experiments=" in path else others[0]
            return shown
    return "missing"


def test_the_pages_of_all_routes_are_tested() -> None:
    named = re.findall(r'"(\w+)"', ROUTES.replace('url.get("experiments")', ""))
    ids = dict.fromkeys(("job", "other", "experiment", "many", "tuned", "failed"), "id_1")
    assert {page_at(path.format(**ids)) for path in PAGES.values()} == {*named, "missing"}


@pytest.fixture
async def addresses(api: Api, submit: Callable[..., str], reporter: Reporter) -> dict[str, str]:
    """The addresses of all pages, with a finished job, a queued job and a running experiment."""
    job = submit("group", 2, name="one that ran", epochs=10, labels={"study": "paper"}, telemetry={})
    await reporter.start()
    for epoch in (1, 2, 3):
        await reporter.metrics("train", epoch, 10 * epoch - 5, train_loss=1 / epoch, train_error=0.5 / epoch)
        await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch, test_loss=1 / epoch)
        gaps = {"stem_norm/mean_gap": 0.5 / epoch, "stages.0.0.norm1/mean_gap": 0.25}
        await reporter.metrics("telemetry", epoch, 10 * epoch, train_mode_error=0.2, eval_mode_error=0.3, **gaps)
    await reporter.log("a line")
    await reporter.log("a warning", "warning")
    taken = await reporter.checkpoint(3, 30, {"model.safetensors": b"weights"}, test_error=0.2)
    httpx2.post(f"{api.url}/v1/checkpoints/{taken}/evaluate", json={"batch_statistics": 4})
    await computed(reporter.database, batch_statistics=4)
    await reporter.finish()
    body = {"grid": {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [8, 4]}}
    experiment = httpx2.post(f"{api.url}/v1/experiments", json=body).json()["id"]
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5)
    await reporter.finish()
    many = httpx2.post(f"{api.url}/v1/experiments", json={"grid": {**body["grid"], "seed": [0, 1, 2, 3]}}).json()["id"]
    for _ in range(3 + 16):
        await reporter.start()
        for epoch in (1, 2):
            await reporter.metrics("eval", epoch, 10 * epoch, test_error=0.5 / epoch)
        await reporter.finish()
    failed = submit(name="failed")
    await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="Not finite.", step=3, may_pass=False))
    tune = {"over": {"optimizer.learning_rate": [0.01, 0.1]}, "holdout": 100, "seeds": 1}
    tuned = httpx2.post(f"{api.url}/v1/experiments", json=body | {"tune": tune}).json()["id"]
    await reporter.heartbeat(report(await reporter.start()))
    other = submit("batch", 2, name="one that waits, with a name so long that no table has room for all of it at once")
    ids = {"job": job, "other": other, "experiment": experiment, "many": many, "tuned": tuned, "failed": failed}
    return {name: path.format(**ids) for name, path in PAGES.items()}


DRAWN = """() => [...document.querySelectorAll(".drawing")]
    .every((one) => one.getBoundingClientRect().top >= innerHeight || one.querySelector(".main-svg, canvas"))"""


async def settled(page: Page) -> None:
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)
    await page.wait_for_function(DRAWN)


EVERY_RULE = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
# The themes differ in colours alone.
RULES = {"light": EVERY_RULE, "dark": ["color-contrast"]}


async def violations(page: Page, rules: Sequence[str] = EVERY_RULE) -> list[str]:
    """Return axe-core's violations. Its code is evaluated, because the page's policy blocks scripts of others."""
    await page.evaluate(AXE)
    found: dict[str, Any] = await page.evaluate(
        "rules => axe.run({ runOnly: rules, resultTypes: ['violations'] })", list(rules)
    )
    return [
        f"{violation['id']}: {violation['help']}: {node['html'][:160]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


async def test_no_page_breaks_a_rule_in_either_theme_or_is_wider_than_the_screen(
    start_visit: Callable[..., Any], addresses: dict[str, str]
) -> None:
    visit: Visit = await start_visit(reduced_motion="reduce")
    broken: dict[str, list[str]] = {}
    for name, path in addresses.items():
        page = await visit.open(path)
        for theme, rules in RULES.items():
            await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
            await settled(page)
            broken[f"{name}, {theme}"] = await violations(page, rules)
            for menu in MENUS.get(name, ()):
                summary = page.locator("summary", has_text=menu).first
                await summary.click()
                await expect(page.locator("details.menu[open]")).to_have_count(1)
                broken[f"{name}, {menu}, {theme}"] = await violations(page, rules)
                await page.keyboard.press("Escape")
        for width in (360, 2560):
            await page.set_viewport_size({"width": width, "height": 800})
            await settled(page)
            wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            broken[f"{name} at {width}"] = [f"{wider} pixels wider"] if wider > 0 else []
        await page.close()
    assert {where: problems for where, problems in broken.items() if problems} == {}


async def test_an_empty_service_and_a_report_break_no_rule(visit: Visit, api: Api, reporter: Reporter) -> None:
    broken: dict[str, list[str]] = {}
    for path in ("/", "/jobs", "/cluster"):
        page = await visit.open(path)
        for theme, rules in RULES.items():
            await page.emulate_media(color_scheme=theme, reduced_motion="reduce")  # type: ignore[arg-type]
            await settled(page)
            broken[f"empty {path}, {theme}"] = await violations(page, rules)
    grid = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [8]}
    id_ = httpx2.post(f"{api.url}/v1/experiments", json={"grid": grid}).json()["id"]
    for _ in range(2):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        await reporter.finish()
    page = await visit.context.new_page()
    await page.set_content(httpx2.get(f"{api.url}/v1/experiments/{id_}/report").text)
    for theme, rules in RULES.items():
        await page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        broken[f"report, {theme}"] = await violations(page, rules)
    assert {where: problems for where, problems in broken.items() if problems} == {}


async def test_the_rules_are_seen_to_be_broken_where_they_are(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await settled(page)
    # Outside of the part that the page draws again when its data change.
    await page.evaluate("document.body.append(document.createElement('input'))")
    assert [problem for problem in await violations(page) if problem.startswith("label:")]
