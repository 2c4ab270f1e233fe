"""Every page passes axe-core's rules in both themes, and fits the narrowest and the widest screen."""

import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import httpx2
import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import Api, Visit
from tests.dashboard.pages import PAGES, settled
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio
AXE = (files("axe_core_python") / "axe.min.js").read_text()

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
