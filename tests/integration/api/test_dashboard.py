"""The files of the dashboard are served compressed, with a version in their addresses, and with safe headers."""

import asyncio
import gzip
import re
from pathlib import Path

import pytest
from httpx2 import AsyncClient

from service.api.routes.dashboard import PAGES
from service.dashboard.assets import STATIC, Assets

pytestmark = pytest.mark.anyio


async def asset_paths(http: AsyncClient) -> list[str]:
    """Return the addresses that the page loads."""
    return re.findall(r'(?:href|src|content)="(/(?:assets|vendor)/[^"]+)"', (await http.get("/")).text)


@pytest.mark.parametrize("path", [path.replace("{id}", "job_1") for path in PAGES])
async def test_every_address_of_the_dashboard_is_the_one_page(http: AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.headers["cache-control"] == "no-cache"
    assert "{{" not in answer.text
    assert (await http.head(path)).headers["etag"] == answer.headers["etag"]


async def test_all_that_the_page_loads_is_there_and_never_asked_for_again(http: AsyncClient) -> None:
    paths = await asset_paths(http)
    assert len(paths) > 5
    for path in paths:
        answer = await http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        again = await http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


async def test_every_import_of_a_module_leads_to_one(http: AsyncClient) -> None:
    base = next(path for path in await asset_paths(http) if path.endswith("/app.js")).removesuffix("app.js")
    modules = [path for path in STATIC.rglob("*.js") if path.name != "theme.js"]
    for module in modules:
        for imported in re.findall(r'^(?:import .*|\}) from "(.+)";$', module.read_text(), re.MULTILINE):
            target = (module.parent / imported).resolve().relative_to(STATIC.resolve())
            assert (await http.get(f"{base}{target.as_posix()}")).status_code == 200, f"{module}: {imported}"
            assert imported.startswith("."), f"{module} imports {imported}, which is not part of the dashboard"


@pytest.mark.parametrize("path", sorted(STATIC.rglob("*.*s")), ids=lambda path: str(path.relative_to(STATIC)))
def test_a_file_is_short_and_says_what_is_in_it(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "a file has at most 400 lines: split it by its nouns"
    assert text.startswith(("/* ", "// ")), "a file begins with a comment that describes it"
    assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc", "core"}


async def test_it_is_compressed_for_those_who_can_read_that(http: AsyncClient) -> None:
    path = next(path for path in await asset_paths(http) if path.startswith("/vendor/plotly"))
    plain = await http.get(path, headers={"Accept-Encoding": "identity"})
    async with http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as zipped:
        raw = b"".join([chunk async for chunk in zipped.aiter_raw()])
        assert zipped.headers["content-encoding"] == "gzip"
        assert zipped.headers["vary"] == "Accept-Encoding"
        assert zipped.headers["etag"] != plain.headers["etag"]
    assert "content-encoding" not in plain.headers
    assert gzip.decompress(raw) == plain.content
    assert len(raw) < len(plain.content) / 3


async def test_a_page_of_another_release_gets_todays_file_and_asks_again(http: AsyncClient) -> None:
    answer = await http.get("/assets/another/app.js")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-cache")


@pytest.mark.parametrize(
    "path", ["/assets/x/missing.js", "/assets/x/../../app.py", "/assets/x/%2e%2e/assets.py", "/vendor/plotly-0.min.js"]
)
async def test_nothing_else_is_served(http: AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_browser_at_an_unknown_address_gets_the_page_that_says_so(http: AsyncClient, method: str) -> None:
    page = await http.get("/")
    answer = await http.request(method, "/jbos/x?y=1", headers=BROWSER | {"If-None-Match": page.headers["etag"]})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert answer.text == (page.text if method == "GET" else "")
    assert answer.headers["content-security-policy"] == page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "accept"),
    [
        ("GET", "/jbos", "*/*"),
        ("GET", "/jbos", "application/json, text/html;q=0.9"),
        ("POST", "/jbos", BROWSER["Accept"]),
        ("GET", "/v1/jbos", BROWSER["Accept"]),
        ("GET", "/v1", BROWSER["Accept"]),
        ("GET", "/assets", BROWSER["Accept"]),
        ("GET", "/vendor/none.js", BROWSER["Accept"]),
    ],
)
async def test_other_clients_get_a_problem(http: AsyncClient, method: str, path: str, accept: str) -> None:
    answer = await http.request(method, path, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


async def test_pages_run_no_script_but_ours_and_show_up_in_no_frame(http: AsyncClient) -> None:
    for path in ["/", *await asset_paths(http)]:
        headers = (await http.get(path)).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


async def test_the_page_has_no_script_and_no_style_of_its_own() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.findall(r"<script(?![^>]*src=)|<style|\bstyle=|\bon\w+=|https?:", page)


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("{{assets}}")
    (tmp_path / "notes.txt").write_text("not served")
    first = Assets(tmp_path)
    assert set(first.files) == {"index.html"}
    assert first.page.body == f"/assets/{first.version}".encode()
    assert Assets(tmp_path).version == first.version
    (tmp_path / "app.js").write_text("1")
    assert Assets(tmp_path).version != first.version


async def test_two_who_come_at_once_are_both_served(http: AsyncClient) -> None:
    answers = await asyncio.gather(*(http.get("/") for _ in range(8)))
    assert {answer.headers["etag"] for answer in answers} == {answers[0].headers["etag"]}
