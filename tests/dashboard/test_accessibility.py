"""Every page passes axe-core's rules in both themes, and fits the narrowest and the widest screen."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import Page

from tests.dashboard.conftest import Visit
from tests.dashboard.pages import settled

pytestmark = pytest.mark.anyio
AXE = (files("axe_core_python") / "axe.min.js").read_text()

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
        for width in (360, 2560):
            await page.set_viewport_size({"width": width, "height": 800})
            await settled(page)
            wider = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
            broken[f"{name} at {width}"] = [f"{wider} pixels wider"] if wider > 0 else []
        await page.close()
    assert {where: problems for where, problems in broken.items() if problems} == {}


async def test_the_rules_are_seen_to_be_broken_where_they_are(visit: Visit) -> None:
    page = await visit.open("/jobs")
    await settled(page)
    # Outside of the part that the page draws again when its data change.
    await page.evaluate("document.body.append(document.createElement('input'))")
    assert [problem for problem in await violations(page) if problem.startswith("label:")]
