"""Health checks, metrics, the cluster and the specification over HTTP."""

import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from service.api.prometheus import WORKER_STATES
from service.app import create_app
from service.jobs import OUTCOMES
from service.settings import Settings
from service.store import Database, jobs
from service.version import normlab_version
from tests.integration.api.reporter import Reporter
from tests.integration.api.test_jobs import BODY, submit
from worker.architecture import ARCHITECTURES
from worker.normalizations.registry import NORMALIZATIONS
from worker.recipes import RECIPES

pytestmark = pytest.mark.anyio

WORKER: dict[str, Any] = {"node": "n1", "device": "cpu", "bfloat16": False}
REPORT: dict[str, Any] = {
    "ray": {"status": "connected", "address": "127.0.0.1:6379"},
    "slots": {"total": 2, "busy": 1, "free": 1, "problem": None},
    "nodes": [{"id": "n1", "address": "10.0.0.1", "cpus": 2.0, "gpus": 0.0, "alive": True}],
    "workers": [
        WORKER | {"id": "w1", "pid": 41, "state": "busy", "attempt": "attempt_1", "job": "job_1"},
        WORKER | {"id": "w2", "pid": 42, "state": "idle", "attempt": None, "job": None},
    ],
}


async def broken(database: Database) -> None:
    """Drop all tables."""
    async with database.write() as session:
        await session.execute(text("ALTER TABLE jobs RENAME TO elsewhere"))
        await session.execute(text("ALTER TABLE leases RENAME TO elsewhere_too"))


async def test_the_process_lives_whatever_the_database_does(http: AsyncClient, database: Database) -> None:
    await broken(database)
    answer = await http.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "live"})


async def test_ready_with_a_database_and_a_dispatcher(http: AsyncClient, reporter: Reporter) -> None:
    await reporter.heartbeat(REPORT)
    answer = await http.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert {name: check["ok"] for name, check in answer.json()["checks"].items()} == {
        "database": True,
        "dispatcher": True,
    }


@pytest.mark.parametrize("ever", [False, True])
async def test_without_a_dispatcher_it_is_not_ready_and_still_reads_and_queues(
    http: AsyncClient, reporter: Reporter, settings: Settings, ever: bool
) -> None:
    if ever:
        await reporter.heartbeat(REPORT, lease_s=5, age_s=3 * settings.dispatcher_lease_s + 1)
    answer = await http.get("/readyz")
    checks = answer.json()["checks"]
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert (checks["database"]["ok"], checks["dispatcher"]["ok"]) == (True, False)
    age = re.search(r"was ([0-9.]+) s ago", checks["dispatcher"]["detail"])
    assert bool(age) is ever
    assert age is None or float(age[1]) >= 3 * settings.dispatcher_lease_s + 1
    job = await submit(http)
    assert (await http.get(f"/v1/jobs/{job}")).json()["status"] == "queued"


async def test_a_late_heartbeat_or_a_lost_ray_is_degraded(http: AsyncClient, reporter: Reporter) -> None:
    await reporter.heartbeat(REPORT, lease_s=5, age_s=6)
    late = await http.get("/readyz")
    assert (late.status_code, late.json()["status"]) == (200, "degraded")
    assert late.json()["checks"]["dispatcher"]["ok"] is False
    await reporter.heartbeat(REPORT | {"ray": {"status": "unreachable"}})
    lost = await http.get("/readyz")
    assert (lost.status_code, lost.json()["status"]) == (200, "degraded")
    assert "Ray is unreachable" in lost.json()["checks"]["dispatcher"]["detail"]


async def test_a_failing_database_is_reported_without_details_of_the_error(
    http: AsyncClient, database: Database
) -> None:
    await broken(database)
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["checks"]["database"]["ok"] is False
    assert "normlab.db" not in answer.text
    assert "SELECT" not in answer.text
    failed = await http.get("/v1/jobs")
    assert failed.status_code == 503
    assert failed.headers["content-type"] == "application/problem+json"
    assert failed.headers["retry-after"] == "1"
    assert "SELECT" not in failed.text


async def test_the_cluster_is_what_the_dispatcher_reported(http: AsyncClient, reporter: Reporter) -> None:
    job = await submit(http)
    await reporter.heartbeat(REPORT)
    cluster = (await http.get("/v1/cluster")).json()
    assert {key: cluster[key] for key in REPORT} == REPORT
    assert (cluster["dispatcher"]["alive"], cluster["dispatcher"]["holder"]) == (True, "dispatcher-1")
    created = (await http.get(f"/v1/jobs/{job}")).json()["queued_at"]
    assert cluster["queue"] == {"queued": 1, "oldest_queued_at": created, "next_up": None, "too_large": 0}


async def test_a_job_says_that_no_worker_has_room_on_the_cluster(http: AsyncClient, reporter: Reporter) -> None:
    job = await submit(http)
    problem = "No node of the Ray cluster has room for a training worker"
    await reporter.heartbeat(REPORT | {"slots": {"total": 0, "busy": 0, "free": 0, "problem": problem}})
    assert (await http.get(f"/v1/jobs/{job}")).json()["waits_for"] == problem
    assert (await http.get("/v1/cluster")).json()["slots"]["problem"] == problem


async def test_a_job_of_several_workers_says_what_it_waits_for(http: AsyncClient, reporter: Reporter) -> None:
    large, pair, single = [await submit(http, num_workers=number) for number in (3, 2, 1)]

    async def waits_for(job: str) -> str | None:
        found: str | None = (await http.get(f"/v1/jobs/{job}")).json()["waits_for"]
        return found

    assert [await waits_for(job) for job in (large, pair, single)] == [None] * 3, (
        "not reported before the dispatcher has started"
    )
    await reporter.heartbeat(REPORT | {"next_up": {"job": pair, "num_workers": 2}})
    assert "needs 3 workers, and the cluster has room for 2" in str(await waits_for(large))
    assert "is next and starts once 2 workers are free" in str(await waits_for(pair))
    assert await waits_for(single) is None
    queue = (await http.get("/v1/cluster")).json()["queue"]
    assert (queue["next_up"], queue["too_large"]) == ({"job": pair, "num_workers": 2}, 1)


async def test_without_a_dispatcher_the_last_report_of_the_cluster_is_served(
    http: AsyncClient, reporter: Reporter
) -> None:
    await reporter.heartbeat(REPORT, lease_s=5, age_s=60)
    cluster = (await http.get("/v1/cluster")).json()
    assert cluster["dispatcher"]["alive"] is False
    assert datetime.fromisoformat(cluster["dispatcher"]["renewed_at"])
    assert {key: cluster[key] for key in REPORT} == REPORT


@pytest.mark.parametrize("report", [{}, {"ray": "up"}, REPORT | {"workers": [{"id": "w1", "state": "resting"}]}])
async def test_a_report_of_another_version_counts_as_none(
    http: AsyncClient, reporter: Reporter, report: dict[str, Any]
) -> None:
    pair = await submit(http, num_workers=2)
    await reporter.heartbeat(report)
    cluster = (await http.get("/v1/cluster")).json()
    assert (cluster["dispatcher"]["alive"], cluster["ray"]["status"]) == (True, "unreachable")
    assert (cluster["workers"], cluster["queue"]["next_up"], cluster["queue"]["too_large"]) == ([], None, 0)
    ready = (await http.get("/readyz")).json()
    assert "Ray is not reported" in ready["checks"]["dispatcher"]["detail"]
    assert ("normlab_ray_up", "") not in await scraped(http)
    assert (await http.get(f"/v1/jobs/{pair}")).json()["waits_for"] is None
    grid = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2]}
    planned = await http.post("/v1/experiments?dry_run=true", json={"grid": grid})
    assert planned.json()["cost"]["slots"] is None


async def test_of_a_cluster_that_nobody_reported_nothing_is_claimed(http: AsyncClient) -> None:
    cluster = (await http.get("/v1/cluster")).json()
    assert cluster["dispatcher"] == {"alive": False, "holder": None, "renewed_at": None}
    assert cluster["ray"]["status"] == "unreachable"
    assert cluster["slots"] == {"total": 0, "busy": 0, "free": 0, "problem": None}
    assert (cluster["nodes"], cluster["workers"]) == ([], [])


def samples(exposition: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


async def scraped(http: AsyncClient) -> dict[tuple[str, str], float]:
    """Return values by the name of the metric and the values of its labels."""
    answer = await http.get("/metrics")
    assert answer.status_code == 200
    return {(name, " ".join(labels.values())): value for name, labels, value in samples(answer.text)}


async def test_prometheus_reads_the_queue_and_the_requests(http: AsyncClient, reporter: Reporter) -> None:
    began = time.monotonic()
    job = await submit(http)
    await submit(http)
    await reporter.start()
    await reporter.heartbeat(REPORT, age_s=7)
    for path in (f"/v1/jobs/{job}", "/v1/jobs/job_0", "/v1/jobs/job_0", "/nowhere/1", "/nowhere/2"):
        await http.get(path)
    await http.request("BREW", "/v1/jobs")
    found = await scraped(http)
    assert found["normlab_jobs", "queued"] == 1
    assert found["normlab_jobs", "running"] == 1
    assert found["normlab_jobs", "failed"] == 0
    took = time.monotonic() - began + 1
    assert 0 < found["normlab_queue_oldest_seconds", ""] < took
    assert 7 <= found["normlab_dispatcher_heartbeat_age_seconds", ""] < 7 + took
    assert found["normlab_sse_clients", ""] == 0
    assert found["normlab_database_up", ""] == 1
    assert found["normlab_build_info", normlab_version()] == 1
    assert found["normlab_artifacts_free_bytes", ""] > 0
    assert found["normlab_http_requests_total", "POST /v1/jobs 201"] == 2
    assert found["normlab_http_requests_total", "GET /v1/jobs/{job_id} 200"] == 1
    assert found["normlab_http_requests_total", "GET /v1/jobs/{job_id} 404"] == 2
    assert found["normlab_http_requests_total", "GET unrouted 404"] == 2
    assert found["normlab_http_request_duration_seconds_count", "GET /v1/jobs/{job_id}"] == 3
    assert not [key for key in found if "BREW" in key[1]]


async def test_metrics_are_served_without_old_values_while_the_database_fails(
    http: AsyncClient, database: Database
) -> None:
    assert ("normlab_jobs", "queued") in await scraped(http)
    await broken(database)
    found = await scraped(http)
    assert found["normlab_database_up", ""] == 0
    assert {name for name, _ in found} == {
        "normlab_build_info",
        "normlab_database_up",
        "normlab_artifacts_free_bytes",
        "normlab_sse_clients",
        *(name for name, _ in found if name.startswith("normlab_http_")),
    }


async def test_prometheus_reads_the_cluster_as_the_dispatcher_reported_it(
    http: AsyncClient, reporter: Reporter
) -> None:
    await reporter.heartbeat(REPORT)
    found = await scraped(http)
    assert (found["normlab_ray_up", ""], found["normlab_nodes", ""]) == (1, 1)
    assert (found["normlab_slots", "busy"], found["normlab_slots", "free"]) == (1, 1)
    assert [found["normlab_workers", state] for state in WORKER_STATES] == [0, 1, 1]
    await reporter.heartbeat(REPORT | {"ray": {"status": "unreachable"}})
    assert (await scraped(http))["normlab_ray_up", ""] == 0


async def test_metrics_of_the_cluster_are_left_out_while_the_dispatcher_is_silent(
    http: AsyncClient, reporter: Reporter
) -> None:
    await reporter.heartbeat(REPORT, lease_s=5, age_s=6)
    found = await scraped(http)
    assert found["normlab_dispatcher_heartbeat_age_seconds", ""] >= 6
    assert not {name for name, _ in found} & {"normlab_ray_up", "normlab_nodes", "normlab_slots", "normlab_workers"}


async def test_prometheus_reads_what_is_trained_and_how_attempts_ended(http: AsyncClient, reporter: Reporter) -> None:
    began = time.monotonic()
    for _ in range(3):
        await submit(http)
    first = await reporter.start()
    await reporter.checkpoint(1, 10, {"state.pt": bytes(1000), "model.safetensors": bytes(234)})
    await reporter.finish()
    await reporter.start()
    await reporter.lose()
    await reporter.start()
    await reporter.progress(10, images_per_s=250.0)
    found = await scraped(http)
    assert [found["normlab_attempts_ended_total", outcome] for outcome in OUTCOMES] == [1, 0, 0, 0, 1]
    assert found["normlab_dispatch_latency_seconds_count", ""] == 3
    assert found["normlab_dispatch_latency_seconds_bucket", "28800.0"] == 3
    assert 0 < found["normlab_dispatch_latency_seconds_sum", ""] < 3 * (time.monotonic() - began + 1)
    assert found["normlab_checkpoint_stored_bytes", ""] == 1234
    assert found["normlab_training_images_per_second", ""] == 250
    await http.delete(f"/v1/jobs/{first}")
    await reporter.finish()
    found = await scraped(http)
    assert found["normlab_attempts_ended_total", "succeeded"] == 2, "a counter keeps what was deleted"
    assert found["normlab_checkpoint_stored_bytes", ""] == 0
    assert found["normlab_training_images_per_second", ""] == 0


async def test_the_specification_says_what_a_job_may_be(http: AsyncClient) -> None:
    specification = (await http.get("/v1/specification")).json()
    assert set(specification["job"]["required"]) == {"normalization", "batch_size"}
    assert specification["job"]["properties"]["epochs"]["default"] == 30
    assert specification["job"]["properties"]["schedule"]["default"]["type"] == "multistep"
    assert "images per step and worker" in specification["job"]["properties"]["batch_size"]["description"]
    assert [model["name"] for model in specification["models"]] == list(ARCHITECTURES)
    stem = specification["models"][0]["layers"][0]
    assert stem == {"name": "stem_norm", "channels": 16, "size": 32}
    parameters = {entry["type"]: set(entry["parameters"]) for entry in specification["normalizations"]}
    assert parameters["group"] == {"num_groups", "channels_per_group", "eps", "affine"}
    assert parameters["none"] == set()
    offered = {entry["type"]: entry for entry in specification["normalizations"]}
    assert list(offered) == list(NORMALIZATIONS)
    for name, normalization in NORMALIZATIONS.items():
        assert (offered[name]["needs"], offered[name]["reference"]) == (normalization.needs, normalization.reference)
        assert offered[name]["replaces"] == list(normalization.replaces)
        assert offered[name]["distributed"] == (not normalization.not_distributed)
    assert specification["recipes"].keys() == RECIPES.keys()
    assert specification["recipes"]["labml"]["batch_size"] == 64
    assert {"name": "cifar10", "train": 50_000, "test": 10_000} in specification["datasets"]


async def test_every_recipe_in_the_specification_can_be_submitted(http: AsyncClient) -> None:
    specification = (await http.get("/v1/specification")).json()
    for recipe, fields in specification["recipes"].items():
        by_name = await http.post(
            "/v1/jobs", json={"recipe": recipe, "normalization": {"type": "batch"}, "batch_size": 8}
        )
        by_fields = await http.post("/v1/jobs", json=fields | {"normalization": {"type": "batch"}, "batch_size": 8})
        assert by_name.json()["spec"] | {"recipe": None} == by_fields.json()["spec"]


async def test_the_documentation_is_served(http: AsyncClient) -> None:
    assert (await http.get("/openapi.json")).json()["info"]["title"] == "normlab"
    assert (await http.get("/openapi.json")).headers["access-control-allow-origin"] == "*"
    page = await http.get("/docs")
    assert "text/html" in page.headers["content-type"]
    assert "script-src 'self'" in page.headers["content-security-policy"]


async def test_replicas_report_the_same_values(
    settings: Settings, app: FastAPI, http: AsyncClient, reporter: Reporter
) -> None:
    replica = create_app(settings)
    async with (
        replica.router.lifespan_context(replica),
        AsyncClient(transport=ASGITransport(replica), base_url="http://localhost") as other,
    ):
        job = await submit(http)
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=0.5)
        checkpoint = await reporter.checkpoint(1, 10, {"state.pt": b"x"}, test_error=0.5)
        await reporter.heartbeat(REPORT)
        for path in (
            f"/v1/jobs/{job}",
            "/v1/jobs",
            f"/v1/jobs/{job}/metrics",
            f"/v1/jobs/{job}/events",
            f"/v1/checkpoints/{checkpoint}",
            f"/v1/checkpoints/{checkpoint}/files/state.pt",
            "/v1/cluster",
        ):
            answers = [(await client.get(path)).content for client in (http, other)]
            # The job runs, so that its duration grows from one request to the next.
            first, second = (re.sub(rb'"duration_s":[0-9.e-]+', b"", answer) for answer in answers)
            assert first == second
        assert (await other.post(f"/v1/jobs/{job}/pause")).json()["status"] == "pausing"
        assert (await http.get(f"/v1/jobs/{job}")).json()["status"] == "pausing"


async def test_the_log_has_a_line_for_each_request_with_its_id(
    http: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "service.api.http.middleware")
    await http.post("/v1/jobs", json=BODY, headers={"X-Request-ID": "mine"})
    await http.get("/livez")
    lines = [record for record in caplog.records if record.name == "service.api.http.middleware"]
    assert [(r.levelname, r.getMessage()) for r in lines] == [
        ("INFO", "POST /v1/jobs 201"),
        ("DEBUG", "GET /livez 200"),
    ]
    assert vars(lines[0])["duration_s"] > 0


async def test_an_unexpected_error_shows_only_the_request_id_of_its_log_entry(
    http: AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(jobs, "get", fail)
    answer = await http.get("/v1/jobs/job_1", headers={"X-Request-ID": "mine"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine"
    assert "hunter2" not in answer.text
    [record] = [record for record in caplog.records if record.exc_info]
    assert re.search("hunter2", str(record.exc_info))
