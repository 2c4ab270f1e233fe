"""The browser of the dashboard's tests, screenshots and benchmarks."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

# The headless shell has no user interface and starts and draws faster than the whole browser.
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser")


def executable() -> str | None:
    """Return the path of the browser: NORMLAB_TEST_BROWSER, or the first of `NAMES` that is installed."""
    return os.environ.get("NORMLAB_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """Run the browser. Without one, Playwright's error says so."""
    arguments = ["--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage"]
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable(), args=arguments)
        yield browser
        await browser.close()
