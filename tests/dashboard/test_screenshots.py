"""The command that takes the screenshots of the documentation."""

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from playwright.async_api import Browser

from service.client import Client
from tests.dashboard import screenshots
from tests.dashboard.conftest import Api
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio


async def test_every_page_is_taken_in_both_themes(
    browser: Browser, api: Api, reporter: Reporter, tmp_path: Path
) -> None:
    body = {
        "base": {"telemetry": {}},
        "grid": {"normalization": [{"type": "batch"}, {"type": "layer"}], "batch_size": [8, 4]},
    }
    assert httpx2.post(f"{api.url}/v1/experiments", json=body).status_code == 201
    for _ in range(2):
        await reporter.start()
        for step in (10, 20):
            await reporter.metrics("eval", step // 10, step, test_error=0.5, test_loss=1.0)
            await reporter.metrics("telemetry", step // 10, step, **{"stem_norm/mean_gap": 0.5 / step})
        await reporter.finish()
    with Client(api.url) as client:
        wanted = screenshots.pages(client)
    assert wanted["layers"].endswith("?tab=layers")
    taken = await screenshots.take(browser, api.url, wanted, tmp_path / "pictures", widths=(390, 1440))
    assert {path.name for path in taken} == {
        f"{name}-{theme}{ending}.png" for name in wanted for theme in ("light", "dark") for ending in ("", "-390")
    }
    contents = [path.read_bytes() for path in taken]
    assert all(content.startswith(b"\x89PNG") for content in contents)
    assert len(set(contents)) == len(contents)


def test_a_service_without_experiments_has_nothing_to_show(api: Api, submit: Callable[..., str]) -> None:
    submit()
    with Client(api.url) as client, pytest.raises(LookupError, match="has no experiment: submit one"):
        screenshots.pages(client)
