"""Checkpoints over HTTP: their lists, and their files, which are verified before they are sent."""

import base64
import hashlib
import os
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient, Response

from service.settings import Settings
from service.store import checkpoints, retention
from tests.integration.api.conftest import Listening
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import submit

pytestmark = pytest.mark.anyio

WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {"model.safetensors": WEIGHTS, "manifest.json": b'{"step": 10}', "state.pt": b""}
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
async def job(http: AsyncClient, reporter: Reporter) -> str:
    id_ = await submit(http)
    await reporter.start()
    return id_


@pytest.fixture
async def checkpoint(job: str, reporter: Reporter) -> str:
    return await reporter.checkpoint(1, 10, FILES, test_error=0.5)


@pytest.fixture
def weights(checkpoint: str) -> str:
    """Return the address of the file of the weights."""
    return f"/v1/checkpoints/{checkpoint}/files/model.safetensors"


@pytest.fixture
def path(settings: Settings, job: str, checkpoint: str) -> Path:
    """Return the path of the file of the weights."""
    return Path(settings.artifacts) / job / checkpoint / "model.safetensors"


async def test_checkpoints_are_listed_newest_first_with_the_best_marked(
    http: AsyncClient, job: str, reporter: Reporter
) -> None:
    made = [
        await reporter.checkpoint(1, 10, FILES, test_error=0.6, test_loss=2.0),
        await reporter.checkpoint(2, 20, FILES, test_error=0.4, test_loss=1.0),
        await reporter.checkpoint(2, 25, FILES),
    ]
    page = (await http.get(f"/v1/jobs/{job}/checkpoints")).json()
    assert page["next_cursor"] is None
    assert [c["id"] for c in page["data"]] == made[::-1]
    assert [c["best"] for c in page["data"]] == [False, True, False]
    best = page["data"][1]
    assert (best["job"], best["attempt"], best["epoch"], best["step"]) == (job, reporter.attempt, 2, 20)
    assert best["metrics"] == {"test_error": 0.4, "test_loss": 1.0}
    assert best["files"] == [
        {
            "name": name,
            "size": len(FILES[name]),
            "sha256": hashlib.sha256(FILES[name]).hexdigest(),
            "url": f"/v1/checkpoints/{made[1]}/files/{name}",
        }
        for name in sorted(FILES)
    ]
    for which, expected in (("latest", made[2]), ("best", made[1]), (made[0], made[0])):
        found = (await http.get(f"/v1/jobs/{job}/checkpoints/{which}")).json()
        assert found["id"] == expected
        assert found == (await http.get(f"/v1/checkpoints/{expected}")).json()


async def test_what_is_not_there_is_404(http: AsyncClient, checkpoint: str, reporter: Reporter) -> None:
    other = await submit(http)
    for missing in (
        f"/v1/jobs/{other}/checkpoints/latest",
        f"/v1/jobs/{other}/checkpoints/best",
        f"/v1/jobs/{other}/checkpoints/{checkpoint}",
        f"/v1/checkpoints/{checkpoint}/files/other.pt",
        f"/v1/checkpoints/{checkpoint}/files/..%2Fmodel.safetensors",
        f"/v1/checkpoints/{checkpoint}/files/%00",
        "/v1/checkpoints/checkpoint_0/files/state.pt",
        "/v1/checkpoints/%2E%2E",
        "/v1/jobs/job_0/checkpoints",
        "/v1/jobs/%00/checkpoints",
    ):
        answer = await http.get(missing)
        assert answer.status_code == 404, missing
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_file_comes_whole_with_what_proves_it(http: AsyncClient, weights: str) -> None:
    answer = await http.get(weights)
    assert answer.status_code == 200
    assert answer.content == WEIGHTS
    digest = base64.b64encode(hashlib.sha256(WEIGHTS).digest()).decode()
    assert {
        name: answer.headers[name]
        for name in ("etag", "repr-digest", "accept-ranges", "content-length", "content-disposition", "content-type")
    } == {
        "etag": f'"{SHA256}"',
        "repr-digest": f"sha-256=:{digest}:",
        "accept-ranges": "bytes",
        "content-length": str(len(WEIGHTS)),
        "content-disposition": 'attachment; filename="model.safetensors"',
        "content-type": "application/octet-stream",
    }
    assert "immutable" in answer.headers["cache-control"]


async def test_head_has_the_headers_of_get(http: AsyncClient, weights: str) -> None:
    head, get = await http.head(weights), await http.get(weights)
    assert (head.status_code, head.content) == (200, b"")
    varying = {"x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }
    ranged = await http.head(weights, headers={"Range": "bytes=0-9"})
    assert (ranged.status_code, ranged.headers["content-length"]) == (200, str(len(WEIGHTS)))


async def test_an_empty_file_can_be_downloaded(http: AsyncClient, checkpoint: str) -> None:
    answer = await http.get(f"/v1/checkpoints/{checkpoint}/files/state.pt")
    assert (answer.status_code, answer.content) == (200, b"")
    ranged = await http.get(f"/v1/checkpoints/{checkpoint}/files/state.pt", headers={"Range": "bytes=0-"})
    assert (ranged.status_code, ranged.headers["content-range"]) == (416, "bytes */0")


SIZE = len(WEIGHTS)


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-99", 0, 99),
        ("bytes=70000-", 70_000, SIZE - 1),
        ("bytes=-5", SIZE - 5, SIZE - 1),
        (f"bytes=-{SIZE + 5}", 0, SIZE - 1),
        (f"bytes=100-{SIZE + 100}", 100, SIZE - 1),
        ("BYTES = 5-6", 5, 6),
        (f"bytes=5-6,{SIZE}-", 5, 6),
    ],
)
async def test_a_range_is_answered_alone(http: AsyncClient, weights: str, asked: str, first: int, last: int) -> None:
    answer = await http.get(weights, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["content-range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["etag"] == f'"{SHA256}"'
    assert answer.content == WEIGHTS[first : last + 1]


async def test_several_ranges_come_in_parts(http: AsyncClient, weights: str) -> None:
    answer = await http.get(weights, headers={"Range": "bytes=0-4,100-104,-5"})
    assert answer.status_code == 206
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = answer.content.split(b"--" + boundary.encode())[1:-1]
    bodies = [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]
    assert bodies == [WEIGHTS[:5], WEIGHTS[100:105], WEIGHTS[-5:]]
    assert f"Content-Range: bytes 100-104/{SIZE}".encode() in parts[1]
    assert len(answer.content) == int(answer.headers["content-length"])


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=-0", f"bytes={SIZE}-{SIZE + 5},-0"])
async def test_a_range_beyond_the_file_is_a_problem_with_the_size(http: AsyncClient, weights: str, asked: str) -> None:
    answer = await http.get(weights, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["content-range"] == f"bytes */{SIZE}"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=x-", "bytes=", "bytes=-", "lines=1-2", "bytes", "bytes=1-2,x"])
async def test_a_range_that_means_nothing_is_passed_over(http: AsyncClient, weights: str, asked: str) -> None:
    answer = await http.get(weights, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, WEIGHTS)


async def test_a_cut_download_goes_on_only_with_the_same_file(http: AsyncClient, weights: str) -> None:
    same = await http.get(weights, headers={"Range": "bytes=100-", "If-Range": f'"{SHA256}"'})
    assert (same.status_code, same.content) == (206, WEIGHTS[100:])
    for other in ('"another"', f'W/"{SHA256}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = await http.get(weights, headers={"Range": "bytes=100-", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, WEIGHTS)


@pytest.mark.parametrize("tags", [f'"{SHA256}"', f'W/"{SHA256}"', f'"x", "{SHA256}"', "*"])
async def test_what_the_client_has_is_not_sent_again(http: AsyncClient, weights: str, tags: str) -> None:
    for answer in (
        await http.get(weights, headers={"If-None-Match": tags}),
        await http.head(weights, headers={"If-None-Match": tags}),
    ):
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == f'"{SHA256}"'
    assert (await http.get(weights, headers={"If-None-Match": '"other"'})).status_code == 200


def _flip(path: Path) -> None:
    path.write_bytes(bytes([WEIGHTS[0] ^ 1]) + WEIGHTS[1:])


@pytest.mark.parametrize(
    "damage", [_flip, lambda path: path.write_bytes(WEIGHTS[:-1]), Path.unlink], ids=["bit", "cut", "missing"]
)
@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=5-9"}, {"If-None-Match": f'"{SHA256}"'}])
async def test_a_damaged_file_is_an_error_and_not_a_byte_of_it_is_served(
    http: AsyncClient, weights: str, path: Path, damage: Callable[[Path], Any], headers: dict[str, str]
) -> None:
    assert (await http.get(weights)).status_code == 200  # an earlier request verified it, and the result is cached
    damage(path)
    for answer in (await http.get(weights, headers=headers), await http.head(weights, headers=headers)):
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "etag" not in answer.headers
    problem = (await http.get(weights, headers=headers)).json()
    assert problem["title"] == "Corrupt file"
    assert "model.safetensors" in problem["detail"]
    assert str(path) not in problem["detail"]


async def test_a_repaired_file_is_served_again(http: AsyncClient, weights: str, path: Path) -> None:
    _flip(path)
    assert (await http.get(weights)).status_code == 500
    path.write_bytes(WEIGHTS)
    os.utime(path, ns=(1, 1))
    assert (await http.get(weights)).content == WEIGHTS


async def test_a_checkpoint_that_is_removed_while_it_is_asked_for_is_404(
    app: FastAPI, http: AsyncClient, weights: str, checkpoint: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = app.state.services
    get = checkpoints.get

    async def get_then_remove(session: Any, id_: str) -> Any:
        found = await get(session, id_)
        monkeypatch.setattr(checkpoints, "get", get)
        async with services.database.write() as other:
            await checkpoints.remove(other, [id_])
        services.artifacts.delete_checkpoint(job, id_)
        return found

    monkeypatch.setattr(checkpoints, "get", get_then_remove)
    answer = await http.get(weights)
    assert answer.status_code == 404
    assert checkpoint in answer.json()["detail"]


async def test_a_download_cut_by_a_restart_is_completed_by_another_replica(
    listen: Callable[[], Listening], reporter: Reporter
) -> None:
    first = listen()
    async with AsyncClient(base_url=first.url) as http:
        await submit(http)
        await reporter.start()
        checkpoint = await reporter.checkpoint(1, 10, FILES)
        url = f"/v1/checkpoints/{checkpoint}/files/model.safetensors"
        received = b""
        async with http.stream("GET", url) as answer:
            etag = answer.headers["etag"]
            async for chunk in answer.aiter_bytes(1000):
                received += chunk
                if len(received) >= 100_000:
                    break
    first.stop()
    async with AsyncClient(base_url=listen().url) as http:
        rest: Response = await http.get(url, headers={"Range": f"bytes={len(received)}-", "If-Range": etag})
    assert rest.status_code == 206
    assert hashlib.sha256(received + rest.content).hexdigest() == SHA256 == etag.strip('"')


async def test_what_retention_has_removed_is_410(
    http: AsyncClient, job: str, checkpoint: str, weights: str, reporter: Reporter
) -> None:
    last = await reporter.checkpoint(1, 20, FILES, test_error=0.4)
    await reporter.finish()
    async with reporter.database.write() as session:
        assert set(await retention.remove(session, job, "best-and-last", datetime.now(UTC))) == {checkpoint}
    found = (await http.get(f"/v1/jobs/{job}/checkpoints")).json()
    assert ([one["id"] for one in found["data"]], found["removed"]) == ([last], 1)
    evaluated = await http.post(f"/v1/checkpoints/{checkpoint}/evaluate", json={})
    gone = [
        await http.get(path)
        for path in (f"/v1/checkpoints/{checkpoint}", f"/v1/jobs/{job}/checkpoints/{checkpoint}", weights)
    ]
    for answer in (evaluated, *gone):
        assert answer.status_code == 410
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["title"] == "Removed"
        assert "keeps only its best and its last one (NORMLAB_RETENTION)" in answer.json()["detail"]
    assert (await http.get(f"/v1/jobs/{job}/checkpoints/best")).json()["id"] == last
    async with reporter.database.write() as session:
        assert await retention.remove(session, job, "none", datetime.now(UTC)) == [last]
    for which in ("best", "latest"):
        assert (await http.get(f"/v1/jobs/{job}/checkpoints/{which}")).status_code == 410
    assert (await http.get(f"/v1/jobs/{job}/checkpoints/checkpoint_0")).status_code == 404
