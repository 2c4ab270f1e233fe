"""Jobs over HTTP: submitted once, listed, stopped and deleted as their state allows."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from httpx2 import ASGITransport, AsyncClient

from service.app import create_app
from service.settings import Settings
from service.store import Database, jobs
from service.store.tables import Job
from tests.integration.api.reporter import Reporter
from worker.events import Failure, Usage
from worker.normalizations.registry import NORMALIZATIONS

pytestmark = pytest.mark.anyio

BODY: dict[str, Any] = {"normalization": {"type": "group"}, "batch_size": 2, "epochs": 10}


async def submit(http: AsyncClient, **fields: Any) -> str:
    answer = await http.post("/v1/jobs", json=BODY | fields)
    assert answer.status_code == 201, answer.text
    job: str = answer.json()["id"]
    return job


async def test_a_submitted_job_is_answered_in_full_and_found_at_its_location(http: AsyncClient) -> None:
    answer = await http.post(
        "/v1/jobs", json=BODY | {"name": "gn at 2", "labels": {"study": "paper"}, "priority": 3, "max_retries": 1}
    )
    job = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert job["status"] == "queued"
    assert job["spec"]["normalization"] == {
        "type": "group",
        "num_groups": 8,
        "channels_per_group": None,
        "eps": 1e-5,
        "affine": True,
    }
    assert job["spec"]["optimizer"]["type"] == "sgd"
    assert "name" not in job["spec"]
    assert (job["name"], job["labels"], job["priority"], job["max_retries"]) == ("gn at 2", {"study": "paper"}, 3, 1)
    assert job["created_at"].endswith("Z")
    assert [entry["status"] for entry in job["history"]] == ["queued"]
    for field in ("started_at", "finished_at", "error", "progress", "retry_of", "extends", "experiment"):
        assert job[field] is None
    assert job["attempts"] == []
    assert job["summary"] == {}
    found = await http.get(answer.headers["location"])
    assert found.json() == job


async def test_every_link_of_a_job_answers(http: AsyncClient) -> None:
    job = (await http.get(f"/v1/jobs/{await submit(http)}")).json()
    for link in job["links"].values():
        assert (await http.get(link)).status_code == 200


async def test_a_job_lists_its_attempts(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, model="resnet20", dataset={"name": "synthetic", "train_limit": 20})
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, test_loss=1.5)
    await reporter.metrics("eval", 2, 20, test_error=0.7, test_loss=1.2)
    await reporter.progress(25, images_per_s=50.0, train_loss=2.0)
    job = (await http.get(f"/v1/jobs/{id_}")).json()
    assert job["status"] == "running"
    assert job["summary"]["test_error"] == {
        "best": 0.5,
        "best_step": 10,
        "selected": None,
        "last": 0.7,
        "last_step": 20,
        "last_5": [0.5, 0.7],
    }
    assert job["progress"] == {
        "epoch": 1,
        "epochs": 10,
        "step": 25,
        "total_steps": 100,
        "images_per_s": 50.0,
        "train_loss": 2.0,
        "eta_s": (100 - 25) * 2 / 50.0 + 8 * 2000 / (3 * 50.0),
    }
    await reporter.metrics("eval", 10, 100, test_error=0.7, eval_images_per_s=400.0)
    await reporter.progress(25, images_per_s=50.0)
    job = (await http.get(f"/v1/jobs/{id_}")).json()
    assert job["progress"]["eta_s"] == (100 - 25) * 2 / 50.0 + 8 * 2000 / 400.0
    await reporter.lose()
    await reporter.start(resumed_from_step=20)
    await reporter.progress(30, usage=Usage(cpu_s=12.5, peak_memory_bytes=2**33))
    await reporter.finish()
    job = (await http.get(f"/v1/jobs/{id_}")).json()
    assert [(a["number"], a["outcome"], a["reason"]) for a in job["attempts"]] == [
        (1, "lost", "the node went away"),
        (2, "succeeded", None),
    ]
    attempt = job["attempts"][1]
    assert (attempt["workers"], attempt["device"]) == ([{"worker": "worker-1", "node": "node-1"}], "cpu")
    assert (attempt["versions"], attempt["resumed_from_step"]) == ({"torch": "2.13.0"}, 20)
    usage = ("cpu_s", "peak_memory_bytes", "peak_gpu_memory_bytes", "gpu_utilization")
    assert [tuple(a[name] for name in usage) for a in job["attempts"]] == [(None,) * 4, (12.5, 2**33, None, None)]
    assert [entry["status"] for entry in job["history"]] == [
        "queued",
        "starting",
        "running",
        "lost",
        "queued",
        "starting",
        "running",
        "succeeded",
    ]
    assert job["finished_at"] is not None
    assert job["progress"]["eta_s"] is None


async def test_a_failed_job_says_why_and_where(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, max_retries=0)
    await reporter.start()
    await reporter.finish("failed", Failure(code="diverged", message="The loss is NaN.", step=7, may_pass=False))
    job = (await http.get(f"/v1/jobs/{id_}")).json()
    assert job["status"] == "failed"
    assert job["error"] == {"code": "diverged", "message": "The loss is NaN.", "step": 7}


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"batch_size": 0}, "/batch_size", "batch_size is 0: .*greater than or equal to 1"),
        ({"batch_size": "two"}, "/batch_size", "batch_size is 'two': .*integer"),
        ({"model": "resnet1000"}, "/model", "resnet1000.*resnet20.*vgg"),
        ({"normalization": {"type": "groop"}}, "/normalization/type", f"groop.*one of {', '.join(NORMALIZATIONS)}"),
        ({"normalization": {"num_groups": 2}}, "/normalization/type", "type is required: give one of batch"),
        ({"normalization": {"type": "group", "num_groups": 7}}, "/normalization/num_groups", "7.*stem_norm.*1, 2, 4"),
        ({"normalization": {"type": "batch", "eps": -1}}, "/normalization/eps", "eps is -1: .*greater than 0"),
        ({"normalization": {"type": "batch", "num_groups": 2}}, "/normalization/num_groups", "no num_groups"),
        ({"optimizer": {"type": "adam", "betas": [0.9, 2]}}, "/optimizer/betas/1", "betas is 2: .*less than 1"),
        ({"recipe": "labml", "optimizer": {"eps": 0}}, "/optimizer/eps", "eps is 0: .*greater than 0"),
        ({"dataset": {"train_limit": 60000}}, "/dataset/train_limit", "60000.*50000 images.*at most 50000"),
        ({"labels": {"": "x"}}, "/labels/", "at least 1 character"),
        ({"labels": {"a/b~c": ""}}, "/labels/a~1b~0c", "at least 1 character"),
        ({"name": "x" * 201}, "/name", "x{70,}… .*at most 200 characters"),
        ({"lables": {}}, "/lables", "There is no lables: did you mean labels?"),
        ({"zzz": 1}, "/zzz", "There is no zzz: give one of augmentation, batch_size"),
    ],
)
async def test_a_wrong_field_is_named_with_what_would_be_accepted(
    http: AsyncClient, change: dict[str, Any], pointer: str, says: str
) -> None:
    answer = await http.post("/v1/jobs", json=BODY | change)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    [error] = problem["errors"]
    assert error["pointer"] == pointer
    assert re.search(says, error["detail"]), error["detail"]
    assert problem["detail"] == error["detail"]
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_every_wrong_field_is_named_at_once(http: AsyncClient) -> None:
    answer = await http.post("/v1/jobs", json={"batch_size": -1, "epochs": 0})
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/normalization", "/batch_size", "/epochs"]


async def test_a_repeat_with_the_same_key_answers_the_first_job(http: AsyncClient) -> None:
    key = {"Idempotency-Key": "my key"}
    first = await http.post("/v1/jobs", json=BODY, headers=key)
    # An equal body with other syntax: the meaning is compared.
    again = await http.post("/v1/jobs", json={"epochs": 10, "seed": 0} | BODY, headers=key)
    assert (again.status_code, again.headers["location"]) == (201, first.headers["location"])
    assert again.json() == first.json()
    assert len((await http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_key_cannot_be_used_for_another_body(http: AsyncClient) -> None:
    key = {"Idempotency-Key": "my key"}
    first = await http.post("/v1/jobs", json=BODY, headers=key)
    other = await http.post("/v1/jobs", json=BODY | {"seed": 1}, headers=key)
    assert other.status_code == 422
    assert first.json()["id"] in other.json()["detail"]
    assert len((await http.get("/v1/jobs")).json()["data"]) == 1


async def test_the_same_key_given_to_two_replicas_at_once_makes_one_job(settings: Settings) -> None:
    apps = [create_app(settings) for _ in range(2)]
    async with apps[0].router.lifespan_context(apps[0]), apps[1].router.lifespan_context(apps[1]):
        replicas = [AsyncClient(transport=ASGITransport(app), base_url="http://localhost") for app in apps]
        answers = await asyncio.gather(
            *(replicas[i % 2].post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "k"}) for i in range(10))
        )
        assert {answer.status_code for answer in answers} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        for replica in replicas:
            await replica.aclose()


async def test_without_a_key_every_submission_is_a_job(http: AsyncClient) -> None:
    assert await submit(http) != await submit(http)


async def test_a_key_is_free_again_once_its_job_is_deleted(http: AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = (await http.post("/v1/jobs", json=BODY, headers=key)).json()["id"]
    await http.post(f"/v1/jobs/{first}/cancel")
    await http.delete(f"/v1/jobs/{first}")
    second = await http.post("/v1/jobs", json=BODY, headers=key)
    assert second.status_code == 201
    assert second.json()["id"] != first


async def test_stopping_and_going_on_may_be_repeated(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http)

    async def do(verb: str) -> str:
        answer = await http.post(f"/v1/jobs/{id_}/{verb}")
        assert answer.status_code == 202, answer.text
        status: str = answer.json()["status"]
        return status

    assert [await do(verb) for verb in ("pause", "pause", "resume", "resume")] == ["paused", "paused"] + ["queued"] * 2
    await reporter.start()
    assert [await do(verb) for verb in ("pause", "pause")] == ["pausing", "pausing"]
    await reporter.finish("paused")
    assert [await do("resume"), await do("cancel"), await do("cancel")] == ["queued", "cancelled", "cancelled"]


async def test_what_the_state_forbids_is_a_conflict_that_names_the_state(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http)
    await reporter.start()
    running = await http.delete(f"/v1/jobs/{id_}")
    assert running.status_code == 409
    assert "running" in running.json()["detail"]
    await reporter.finish()
    for verb in ("cancel", "pause", "resume", "retry"):
        answer = await http.post(f"/v1/jobs/{id_}/{verb}")
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert "succeeded" in answer.json()["detail"]


async def test_a_retry_is_a_new_job_with_the_same_spec_and_the_same_each_time(http: AsyncClient) -> None:
    id_ = await submit(http, name="first", labels={"a": "b"}, priority=2)
    await http.post(f"/v1/jobs/{id_}/cancel")
    answer = await http.post(f"/v1/jobs/{id_}/retry")
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" != f"/v1/jobs/{id_}"
    assert (job["retry_of"], job["status"], job["name"], job["labels"]) == (id_, "queued", "first", {"a": "b"})
    assert job["spec"] == (await http.get(f"/v1/jobs/{id_}")).json()["spec"]
    assert (await http.post(f"/v1/jobs/{id_}/retry")).json()["id"] == job["id"]


async def test_an_extension_is_a_new_job_with_more_epochs_and_the_metrics_of_the_first(
    http: AsyncClient, reporter: Reporter
) -> None:
    id_ = await submit(http, epochs=2, schedule={"type": "constant"})
    await reporter.start()
    await reporter.metrics("eval", 2, 20, test_error=0.25)
    await reporter.checkpoint(2, 20, {"model.safetensors": b"weights"})
    await reporter.finish()
    assert "extend" in await actions_of(http, id_)

    answer = await http.post(f"/v1/jobs/{id_}/extend", json={"epochs": 5})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}" != f"/v1/jobs/{id_}"
    assert (job["extends"], job["status"], job["spec"]["epochs"]) == (id_, "queued", 5)
    assert (await http.get(f"/v1/jobs/{job['id']}/metrics")).json()["data"][0]["test_error"] == 0.25
    assert (await http.post(f"/v1/jobs/{id_}/extend", json={"epochs": 5})).json()["id"] == job["id"]

    few = await http.post(f"/v1/jobs/{id_}/extend", json={"epochs": 2})
    assert (few.status_code, few.json()["errors"][0]["pointer"]) == (422, "/epochs")
    for body in ({}, {"epochs": 0}, {"epochs": True}, {"epochs": "9"}, {"epochs": 10_001}, {"epochs": 5, "seed": 1}):
        assert (await http.post(f"/v1/jobs/{id_}/extend", json=body)).status_code == 422, body
    assert (await http.post(f"/v1/jobs/{job['id']}/extend", json={"epochs": 9})).status_code == 409


async def test_a_job_whose_schedule_is_fixed_to_its_length_is_not_extended(
    http: AsyncClient, reporter: Reporter
) -> None:
    id_ = await submit(http, epochs=2, schedule={"type": "cosine"})
    await reporter.start()
    await reporter.finish()
    answer = await http.post(f"/v1/jobs/{id_}/extend", json={"epochs": 5})
    assert answer.status_code == 409
    assert "its schedule is cosine, and its rate falls over the whole training" in answer.json()["detail"]


async def actions_of(http: AsyncClient, id_: str) -> list[str]:
    """Return what can be done with a job in its status."""
    status = (await http.get(f"/v1/jobs/{id_}")).json()["status"]
    known = (await http.get("/v1/specification")).json()["statuses"]
    return next(list(one["actions"]) for one in known if one["name"] == status)


async def test_deleting_a_job_removes_its_rows_and_its_files(
    http: AsyncClient, reporter: Reporter, settings: Settings
) -> None:
    id_ = await submit(http)
    await reporter.start()
    checkpoint = await reporter.checkpoint(1, 10, {"model.safetensors": b"weights"})
    await reporter.finish()
    assert (Path(settings.artifacts) / id_).exists()
    answer = await http.delete(f"/v1/jobs/{id_}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in (f"/v1/jobs/{id_}", f"/v1/jobs/{id_}/metrics", f"/v1/checkpoints/{checkpoint}"):
        assert (await http.get(path)).status_code == 404
    assert not (Path(settings.artifacts) / id_).exists()
    assert (await http.delete(f"/v1/jobs/{id_}")).status_code == 404


async def test_a_job_is_deleted_although_its_files_cannot_be(
    http: AsyncClient, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError("read-only volume")

    id_ = await submit(http)
    await http.post(f"/v1/jobs/{id_}/cancel")
    monkeypatch.setattr("service.artifacts.LocalArtifacts.delete_job", fail)
    assert (await http.delete(f"/v1/jobs/{id_}")).status_code == 204
    assert (await http.get(f"/v1/jobs/{id_}")).status_code == 404


async def test_the_list_is_narrowed_by_every_filter(http: AsyncClient, reporter: Reporter) -> None:
    a = await submit(http, name="Alpha", labels={"study": "paper", "x": "1"})
    b = await submit(http, name="beta", batch_size=32, normalization={"type": "batch"}, labels={"study": "other"})
    c = await submit(http, name="gamma 100%", seed=7, model="resnet56", labels={"study": "paper", "x": "2"})
    created = (await http.get(f"/v1/jobs/{b}")).json()["created_at"]
    await http.post(f"/v1/jobs/{c}/pause")
    for query, expected in [
        ("", {a, b, c}),
        ("status=queued", {a, b}),
        ("status=queued&status=paused", {a, b, c}),
        ("normalization=batch", {b}),
        ("normalization=batch&normalization=group&batch_size=2", {a, c}),
        ("batch_size=32", {b}),
        ("model=resnet56", {c}),
        ("seed=7", {c}),
        ("seed=7&status=queued", set()),
        ("label=study:paper", {a, c}),
        ("label=study:paper&label=study:other", {a, b, c}),
        ("label=study:paper&label=x:2", {c}),
        ("label=x:1&label=x:2&label=study:other", set()),
        ("search=ALPHA", {a}),
        ("search=100%25", {c}),
        ("search=%25", {c}),
        ("experiment=none", set()),
        (f"id={a}", {a}),
        (f"id={a[:-1]}", {a}),
        (f"id={a[4:-1]}", {a}),
        (f"id={b[-12:]}", {b}),
        (f"id=job_{b[-12:]}", {b}),
        (f"id={a[:8]}", {a, b, c}),
        (f"id={a[:8]}&seed=7", {c}),
        (f"id={a[5:-1]}", set()),
        ("id=%25", set()),
        ("id=job____", set()),
        (f"created_after={created.replace('+', '%2B')}", {c}),
    ]:
        answer = await http.get(f"/v1/jobs?{query}")
        assert answer.status_code == 200, answer.text
        assert {job["id"] for job in answer.json()["data"]} == expected, query


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("status=done", "status"),
        ("batch_size=0", "batch_size"),
        ("seed=9223372036854775808", "seed"),
        ("created_after=yesterday", "created_after"),
        ("created_after=-1.9", "created_after"),
        ("created_after=1767225600", "created_after"),
        ("created_after=2026-01-01T00:00:00", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B23:00", "created_after"),
        ("search=%00", "search"),
        ("id=%00", "id"),
        ("statsu=queued", "statsu"),
        ("label=study", "label"),
        ("sort=size", None),
        ("where=size:1", None),
        ("where=normalization:batch", None),
        ("where=seed", "where"),
        ("cursor=nonsense", None),
        ("cursor=%C3%BC", None),
    ],
)
async def test_a_parameter_that_cannot_be_meant_is_refused(
    http: AsyncClient, query: str, parameter: str | None
) -> None:
    answer = await http.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    if parameter is None:
        assert query.partition("=")[0] in answer.json()["detail"]
    else:
        assert [error["parameter"] for error in answer.json()["errors"]] == [parameter]


async def test_pages_stay_put_while_jobs_are_added(http: AsyncClient) -> None:
    before = [await submit(http, name=str(n)) for n in range(5)]
    page = (await http.get("/v1/jobs?limit=2")).json()
    seen = [job["id"] for job in page["data"]]
    while page["next_cursor"]:
        await submit(http, name="added meanwhile")
        page = (await http.get("/v1/jobs", params={"limit": 2, "cursor": page["next_cursor"]})).json()
        seen += [job["id"] for job in page["data"]]
    assert seen == before[::-1]


@pytest.mark.parametrize("sort", ["name", "-name", "batch_size", "-priority", "created_at", "-updated_at", "status"])
async def test_every_order_can_be_paged_through(http: AsyncClient, sort: str) -> None:
    made = {
        await submit(http, name=name, batch_size=size, priority=priority)
        for name, size, priority in [("b", 2, 1), ("a", 4, 1), ("c", 2, 0), ("a", 8, 5)]
    }
    whole = [job["id"] for job in (await http.get("/v1/jobs", params={"sort": sort})).json()["data"]]
    assert set(whole) == made
    paged: list[str] = []
    cursor = None
    while True:
        parameters: dict[str, Any] = {"sort": sort, "limit": 1} | ({"cursor": cursor} if cursor else {})
        page = (await http.get("/v1/jobs", params=parameters)).json()
        paged += [job["id"] for job in page["data"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert paged == whole


async def test_a_cursor_of_another_order_is_refused(http: AsyncClient) -> None:
    for _ in range(2):
        await submit(http)
    cursor = (await http.get("/v1/jobs?limit=1")).json()["next_cursor"]
    answer = await http.get("/v1/jobs", params={"sort": "name", "cursor": cursor})
    assert answer.status_code == 422
    assert "next_cursor of a page with the same sort" in answer.json()["detail"]


async def test_a_job_stored_by_an_older_release_stays_readable(http: AsyncClient, database: Database) -> None:
    id_ = await submit(http)
    async with database.write() as session:
        job = await session.get(Job, id_)
        assert job is not None
        job.spec = {"model": "lenet", "batch_size": 4}
        job.progress = {"epoch": 1, "step": 3, "images_per_s": 2.0}
    job_ = (await http.get(f"/v1/jobs/{id_}")).json()
    assert job_["spec"] == {"model": "lenet", "batch_size": 4}
    assert (job_["progress"]["step"], job_["progress"]["total_steps"]) == (3, None)
    assert len((await http.get("/v1/jobs")).json()["data"]) == 1


async def test_a_queued_job_has_a_place_which_its_priority_changes(http: AsyncClient, reporter: Reporter) -> None:
    first = await submit(http, epochs=2)
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.5, images_per_s=1000.0)
    others = [await submit(http, epochs=2) for _ in range(2)]

    async def place(id_: str) -> dict[str, Any]:
        found: dict[str, Any] = (await http.get(f"/v1/jobs/{id_}/queue")).json()
        return found

    assert await place(first) == {"position": None, "queued": 2, "starts_in_s": None}
    assert await place(others[1]) == {"position": 2, "queued": 2, "starts_in_s": None}, "no cluster is known"
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 1, "busy": 1, "free": 0}})
    # One job trains, and one is ahead: 2 epochs of 50,000 images each, and their evaluations.
    one_s = 2 * 50_000 / 1000 + 2 * 10_000 / 3000
    assert (await place(others[1]))["starts_in_s"] == pytest.approx(2 * one_s, rel=0.02)
    changed = await http.patch(f"/v1/jobs/{others[1]}", json={"priority": 7})
    assert changed.json()["priority"] == 7
    assert [(await place(id_))["position"] for id_ in others] == [2, 1]
    [event] = [one for one in (await http.get(f"/v1/jobs/{others[1]}/events")).json()["data"] if "priority" in one]
    assert event["priority"] == 7
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 2, "busy": 1, "free": 1}})
    assert (await place(others[1]))["starts_in_s"] == 0
    assert (await http.patch(f"/v1/jobs/{first}", json={"priority": 1001})).status_code == 422
    assert (await http.get("/v1/jobs/job_0/queue")).status_code == 404


async def test_what_people_say_of_a_job_is_changed_at_any_time(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, name="first", labels={"study": "paper", "who": "ann"})
    await reporter.start()
    await reporter.finish()
    changed = await http.patch(f"/v1/jobs/{id_}", json={"labels": {"who": None, "tag": "odd"}, "notes": "a\nb"})
    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["notes"]) == ("first", "a\nb")
    assert changed.json()["labels"] == {"study": "paper", "tag": "odd"}
    assert changed.json()["status"] == "succeeded"
    assert (await http.get("/v1/jobs?label=tag:odd")).json()["data"][0]["id"] == id_
    again = await http.patch(f"/v1/jobs/{id_}", json={"name": "", "labels": {"tag": "odd"}})
    assert (again.json()["name"], again.json()["notes"]) == ("", "a\nb")
    assert (await http.patch(f"/v1/jobs/{id_}", json={"name": ""})).json() == again.json()

    told = [event for event in (await http.get(f"/v1/jobs/{id_}/events")).json()["data"] if event["type"] == "changed"]
    assert [(event["name"], event["notes"], event["labels"]) for event in told] == [
        ("first", "a\nb", {"study": "paper", "tag": "odd"}),
        ("", "a\nb", {"study": "paper", "tag": "odd"}),
    ], "a change without effect causes no event"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": None}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"notes": "x" * 10_001}, "/notes"),
        ({"labels": {"a:b": "c"}}, "/labels"),
        ({"labels": {f"key {n}": "v" for n in range(33)}}, "/labels"),
        ({"batch_size": 4}, "/batch_size"),
    ],
    ids=["null", "long name", "long notes", "colon", "labels", "spec"],
)
async def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    http: AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    id_ = await submit(http, name="stays")
    before = (await http.get(f"/v1/jobs/{id_}")).json()
    refused = await http.patch(f"/v1/jobs/{id_}", json=body)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["pointer"] == pointer
    assert (await http.get(f"/v1/jobs/{id_}")).json() == before


async def test_a_job_took_the_time_of_its_attempts(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http)
    assert (await http.get(f"/v1/jobs/{id_}")).json()["duration_s"] == 0
    for end in (reporter.lose, reporter.finish):
        await reporter.start()
        await end()
    async with reporter.database.write() as session:
        for attempt, seconds in zip(await jobs.attempts(session, id_), (10, 5), strict=True):
            attempt.started_at -= timedelta(days=1)
            attempt.ended_at = attempt.started_at + timedelta(seconds=seconds)
    [listed] = (await http.get("/v1/jobs")).json()["data"]
    assert (listed["duration_s"], (await http.get(f"/v1/jobs/{id_}")).json()["duration_s"]) == (15, 15)


async def test_a_change_of_what_somebody_else_has_changed_is_refused(http: AsyncClient) -> None:
    id_ = await submit(http, name="first")
    path, read = f"/v1/jobs/{id_}", (await http.get(f"/v1/jobs/{id_}")).headers["ETag"]
    first = await http.patch(path, json={"notes": "mine"}, headers={"If-Match": f'"other", {read}'})
    assert (first.status_code, first.headers["ETag"]) == (200, (await http.get(path)).headers["ETag"])
    for stale in (read, f"W/{first.headers['ETag']}", ""):
        second = await http.patch(path, json={"notes": "theirs"}, headers={"If-Match": stale})
        assert (second.status_code, second.json()["title"]) == (412, "Changed meanwhile")
        assert f"If-Match is {stale}" in second.json()["detail"]
    assert (await http.get(path)).json()["notes"] == "mine"
    for current in ({}, {"If-Match": "*"}, {"If-Match": first.headers["ETag"]}):
        assert (await http.patch(path, json={"notes": "mine"}, headers=current)).status_code == 200


async def test_the_etag_of_a_job_is_of_what_can_be_changed(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http)
    read = (await http.get(f"/v1/jobs/{id_}")).headers["ETag"]
    await reporter.start()
    await reporter.finish()
    assert (await http.get(f"/v1/jobs/{id_}")).headers["ETag"] == read
    bodies = ({"name": "a"}, {"notes": "a"}, {"labels": {"a": "a"}})
    changed = [(await http.patch(f"/v1/jobs/{id_}", json=body)).headers["ETag"] for body in bodies]
    assert len({read, *changed}) == 4


async def test_jobs_are_filtered_and_sorted_by_any_field_label_and_metric(
    http: AsyncClient, reporter: Reporter
) -> None:
    rates = {
        rate: await submit(http, optimizer={"type": "sgd", "learning_rate": rate}, labels={"arm": str(rate)})
        for rate in (1, 2)
    }
    await reporter.start()
    await reporter.metrics("eval", 1, 10, test_error=0.25)
    await reporter.finish()

    async def listed(**query: Any) -> list[str]:
        answer = await http.get("/v1/jobs", params=query)
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    assert await listed(where="optimizer.learning_rate:2") == [rates[2]]
    assert await listed(where=["labels.arm:1", "test_error.best<=0.25"]) == [rates[1]]
    assert await listed(where="test_error.best<0.25") == []
    assert await listed(sort="-labels.arm") == [rates[2], rates[1]]
    refused = await http.get("/v1/jobs", params={"where": "normalization:batch"})
    assert "give one of normalization.type, " in refused.json()["detail"]
    assert "optimizer.learning_rate" in (await http.get("/v1/jobs", params={"where": "size:1"})).json()["detail"]


async def test_jobs_are_listed_by_a_metric(http: AsyncClient, reporter: Reporter) -> None:
    ids = [await submit(http) for _ in range(3)]
    for error in (0.5, 0.25):
        await reporter.start()
        await reporter.metrics("eval", 1, 10, test_error=error)
        await reporter.finish()
    page = (await http.get("/v1/jobs?sort=test_error,-created_at&limit=2")).json()
    assert [job["id"] for job in page["data"]] == [ids[1], ids[0]]
    rest = (await http.get(f"/v1/jobs?sort=test_error,-created_at&limit=2&cursor={page['next_cursor']}")).json()
    assert ([job["id"] for job in rest["data"]], rest["next_cursor"]) == ([ids[2]], None)
    refused = await http.get("/v1/jobs?sort=accuracy")
    assert refused.status_code == 422
    assert "test_error" in refused.json()["detail"]


async def test_the_jobs_of_all_pages_are_counted_on_request(http: AsyncClient) -> None:
    for batch_size in (2, 4, 8):
        await submit(http, batch_size=batch_size)
    page = (await http.get("/v1/jobs?limit=1&count=true")).json()
    assert (len(page["data"]), page["total"]) == (1, 3)
    assert (await http.get("/v1/jobs?batch_size=2&batch_size=4&count=true")).json()["total"] == 2
    assert (await http.get("/v1/jobs")).json()["total"] is None
