"""The dashboard and the Python client behind a proxy that serves the API under a prefix, which it removes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import expect

from service.client import Client
from service.settings import Settings
from tests.dashboard.conftest import Api, Visit
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

PREFIX = "/lab"


@dataclass
class Proxy:
    """A proxy of one request per connection. Paths outside of the prefix get 404 and are listed."""

    target: int
    url: str = ""
    outside: list[str] = field(default_factory=list)
    serving: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, rest = head.split(" ", 2)
            if not path.startswith(f"{PREFIX}/"):
                self.outside.append(path)
                writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            with contextlib.closing(back):
                version, _, headers = rest.partition("\r\n")
                back.write(f"{method} {path.removeprefix(PREFIX)} {version}\r\nConnection: close\r\n".encode())
                lines = [line for line in headers.split("\r\n") if not line.lower().startswith("connection:")]
                back.write("\r\n".join(lines).encode("latin-1"))
                upwards = asyncio.create_task(copy(reader, back))
                try:
                    await copy(there, writer)
                finally:
                    upwards.cancel()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings(home=settings.home, port=0, root_path=PREFIX)


@pytest.fixture
async def proxy(api: Api) -> AsyncIterator[Proxy]:
    proxy = Proxy(api.port)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{PREFIX}"
    yield proxy
    server.close()
    for task in proxy.serving:
        task.cancel()
    await asyncio.gather(*proxy.serving, return_exceptions=True)


async def test_every_address_is_under_the_prefix(
    visit: Visit, proxy: Proxy, reporter: Reporter, tmp_path: Path
) -> None:
    def submit() -> str:
        with Client(proxy.url) as client:
            job: str = client.submit({"normalization": {"type": "batch"}, "batch_size": 8, "name": "far away"})["id"]
            return job

    job = await asyncio.to_thread(submit)
    visit.api.url = proxy.url
    page = await visit.open("/jobs")
    await page.get_by_role("link", name="far away").click()
    await expect(page.locator(".heading")).to_contain_text("queued")
    assert page.url == f"{proxy.url}/jobs/{job}"
    await reporter.start()
    await expect(page.locator(".heading")).to_contain_text("running")
    await reporter.metrics("eval", 1, 10, test_error=0.125)
    await reporter.checkpoint(1, 10, {"model.safetensors": b"the weights"}, test_error=0.125)
    await expect(page.locator(".js-plotly-plot").first).to_be_visible()
    await page.get_by_role("link", name="Checkpoints", exact=True).click()
    async with page.expect_download() as started:
        await page.get_by_role("link", name="Download model.safetensors of step 10").click()
    assert (await (await started.value).path()).read_bytes() == b"the weights"
    await page.reload()
    await expect(page.get_by_role("link", name="Download model.safetensors of step 10")).to_be_visible()
    await page.get_by_role("link", name="Clone").click()
    await expect(page.get_by_role("button", name="Submit the job")).to_be_enabled()
    assert page.url.startswith(f"{proxy.url}/new?")
    await page.get_by_role("link", name="normlab, start").click()
    await expect(page.get_by_role("heading", name="No experiments yet")).to_be_visible()
    await reporter.finish()

    def download() -> bytes:
        with Client(proxy.url) as client:
            assert client.wait(job)["status"] == "succeeded"
            return client.download((job, "best"), "model.safetensors", tmp_path).read_bytes()

    assert await asyncio.to_thread(download) == b"the weights"
    assert proxy.outside == []
