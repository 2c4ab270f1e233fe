"""Evaluations of checkpoints over HTTP."""

import csv
import io
from typing import Any

import pytest
from httpx2 import AsyncClient

from service.store import Database, evaluations
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import submit
from worker.events import Evaluated, Mistake

pytestmark = pytest.mark.anyio

CONFUSION = [[3, 1, *[0] * 8], *[[0] * 10 for _ in range(9)]]
MISTAKE = Mistake(index=7, label=0, predicted=1, confidence=0.75, pixels="AAAA")


@pytest.fixture
async def checkpoint(http: AsyncClient, reporter: Reporter) -> str:
    await submit(http)
    await reporter.start()
    return await reporter.checkpoint(1, 10, {"model.safetensors": b"weights"}, test_error=0.5)


async def computed(database: Database, **given: Any) -> None:
    """Compute the next evaluation, as the dispatcher does."""
    result = {
        "split": "test",
        "precision": "float32",
        "batch_statistics": None,
        "precise_statistics": None,
        "device": "cpu",
        "images": 4,
        "loss": 0.5,
        "error": 0.25,
        "confusion": CONFUSION,
        "mistakes": [MISTAKE],
    }
    async with database.write() as session:
        claimed = await evaluations.claim(session)
        assert claimed is not None
        await evaluations.succeed(session, claimed[0].id, Evaluated.model_validate(result | given))


async def test_an_evaluation_is_queued_computed_and_listed(
    http: AsyncClient, reporter: Reporter, checkpoint: str
) -> None:
    answer = await http.post(f"/v1/checkpoints/{checkpoint}/evaluate", json={"batch_statistics": 4})
    queued = answer.json()
    assert answer.status_code == 202
    assert (queued["job"], queued["checkpoint"], queued["epoch"], queued["step"]) == (reporter.job, checkpoint, 1, 10)
    assert (queued["status"], queued["split"], queued["batch_statistics"]) == ("queued", "test", 4)
    assert (queued["predictions"], queued["error"], queued["finished_at"]) == (None, None, None)

    await computed(reporter.database, batch_statistics=4)
    found = (await http.get(f"/v1/evaluations/{queued['id']}")).json()
    assert found["status"] == "succeeded"
    predictions = found["predictions"]
    assert (predictions["images"], predictions["error"], predictions["loss"]) == (4, 0.25, 0.5)
    assert predictions["classes"][0] == {"name": "airplane", "images": 4, "error": 0.25}
    assert predictions["classes"][9] == {"name": "truck", "images": 0, "error": None}
    assert predictions["confusion"] == CONFUSION
    assert predictions["mistakes"] == [MISTAKE.model_dump()]
    listed = (await http.get(f"/v1/jobs/{reporter.job}/evaluations")).json()
    assert listed == {"data": [found], "next_cursor": None}
    repeated = await http.post(f"/v1/checkpoints/{checkpoint}/evaluate", json={"batch_statistics": 4})
    assert repeated.json() == found


async def test_a_confusion_matrix_is_a_table_on_request(http: AsyncClient, reporter: Reporter, checkpoint: str) -> None:
    path = f"/v1/evaluations/{(await http.post(f'/v1/checkpoints/{checkpoint}/evaluate', json={})).json()['id']}"
    early = await http.get(path, headers={"Accept": "text/csv"})
    assert (early.status_code, "it is queued" in early.text) == (404, True)
    await computed(reporter.database)
    first, *_ = csv.DictReader(io.StringIO((await http.get(path, headers={"Accept": "text/csv"})).text))
    assert (first["class"], first["airplane"], first["automobile"], first["error"]) == ("airplane", "3", "1", "0.25")
    latex = (await http.get(path, headers={"Accept": "application/x-latex"})).text
    assert r"airplane & $\mathbf{3}$ & $1$ & $0$" in latex
    assert "normalized by running averages. Error: 25.00 \\%." in latex


async def test_a_failure_says_why(http: AsyncClient, reporter: Reporter, checkpoint: str) -> None:
    queued = (await http.post(f"/v1/checkpoints/{checkpoint}/evaluate", json={})).json()
    async with reporter.database.write() as session:
        await evaluations.fail(session, queued["id"], "out of memory")
    found = (await http.get(f"/v1/evaluations/{queued['id']}")).json()
    assert (found["status"], found["error"], found["predictions"]) == ("failed", "out of memory", None)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"split": "validation"}, "/split"),
        ({"split": "holdout"}, "/split"),
        ({"precision": "float16"}, "/precision"),
        ({"batch_statistics": 0}, "/batch_statistics"),
        ({"batch_statistics": True}, "/batch_statistics"),
        ({"precise_statistics": 50_001}, "/precise_statistics"),
        ({"precise_statistics": 100}, "/precise_statistics"),
        ({"batch_statistics": 4, "precise_statistics": 100}, ""),
        ({"images": 3}, "/images"),
    ],
    ids=str,
)
async def test_what_cannot_be_evaluated_is_refused_with_the_field(
    http: AsyncClient, checkpoint: str, body: dict[str, Any], pointer: str
) -> None:
    answer = await http.post(f"/v1/checkpoints/{checkpoint}/evaluate", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


async def test_what_does_not_exist_is_not_found(http: AsyncClient) -> None:
    assert (await http.post("/v1/checkpoints/checkpoint_1/evaluate", json={})).status_code == 404
    for path in ("/v1/evaluations/evaluation_1", "/v1/jobs/job_1/evaluations", "/v1/evaluations/%00"):
        assert (await http.get(path)).status_code == 404
