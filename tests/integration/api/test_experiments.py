"""Experiments over HTTP: submitted once, controlled as a whole, extended while they run, deleted with their jobs."""

import asyncio
from typing import Any

import pytest
from httpx2 import AsyncClient

from service.experiments.builtin import STUDIES
from tests.integration.api.reporter import Reporter

pytestmark = pytest.mark.anyio

GRID: dict[str, Any] = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2, 4]}
BODY: dict[str, Any] = {"name": "two by two", "base": {"model": "resnet20", "epochs": 10}, "grid": GRID}


async def submit(http: AsyncClient, **fields: Any) -> str:
    answer = await http.post("/v1/experiments", json=BODY | fields)
    assert answer.status_code == 201, answer.text
    id_: str = answer.json()["id"]
    return id_


async def test_a_submitted_experiment_is_answered_and_found_at_its_location(http: AsyncClient) -> None:
    answer = await http.post("/v1/experiments", json=BODY | {"priority": 2})
    experiment = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"/v1/experiments/{experiment['id']}" == experiment["links"]["self"]
    assert (experiment["name"], experiment["status"], experiment["priority"]) == ("two by two", "queued", 2)
    assert (experiment["jobs"], experiment["counts"], experiment["progress"]) == (4, {"queued": 4}, 0)
    assert (experiment["rows"], experiment["columns"]) == ("normalization", "batch_size")
    assert experiment["request"]["grid"] == GRID | {"seed": [0]}
    assert experiment["eta_s"] is None
    assert (await http.get(answer.headers["location"])).json() == experiment
    for link in experiment["links"].values():
        assert (await http.get(link)).status_code == 200
    jobs = (await http.get(experiment["links"]["jobs"])).json()["data"]
    assert {job["experiment"] for job in jobs} == {experiment["id"]}
    assert {(job["spec"]["normalization"]["type"], job["spec"]["batch_size"]) for job in jobs} == {
        ("batch", 2),
        ("batch", 4),
        ("group", 2),
        ("group", 4),
    }


async def test_a_dry_run_makes_nothing(http: AsyncClient) -> None:
    answer = await http.post("/v1/experiments?dry_run=true", json=BODY)
    preview = answer.json()
    assert answer.status_code == 200
    assert (len(preview["jobs"]), preview["cells"], preview["most_jobs"]) == (4, 4, 4)
    assert preview["jobs"][0]["coordinates"] == {"seed": 0, "normalization": {"type": "batch"}, "batch_size": 2}
    assert preview["jobs"][0]["spec"]["optimizer"]["type"] == "sgd"
    assert preview["cost"]["device_s"] == pytest.approx(sum(job["cost_s"] for job in preview["jobs"]))
    assert "Estimated from a nominal speed" in preview["cost"]["basis"]
    assert (await http.get("/v1/experiments")).json()["data"] == []
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_a_dry_run_knows_the_cost_of_what_is_like_something_that_ran(
    http: AsyncClient, reporter: Reporter
) -> None:
    await submit(http, grid={"normalization": [{"type": "batch"}], "batch_size": [4]})
    await reporter.start()
    await reporter.metrics("train", 1, 10, images_per_s=1000.0)
    await reporter.metrics("eval", 1, 10, eval_images_per_s=2000.0, test_error=0.5)
    await reporter.heartbeat({"ray": {"status": "connected"}, "slots": {"total": 2, "busy": 0, "free": 2}})
    preview = (await http.post("/v1/experiments?dry_run=true", json=BODY)).json()
    seconds = 10 * 50_000 / 1000 + 10 * 10_000 / 2000
    assert {job["cost_s"] for job in preview["jobs"]} == {seconds}
    assert (preview["cost"]["device_s"], preview["cost"]["slots"]) == (4 * seconds, 2)
    assert preview["cost"]["elapsed_s"] == 2 * seconds
    assert "Based on the speed of 1 jobs on cpu" in preview["cost"]["basis"]
    other = BODY | {"base": {"model": "vgg"}}
    assert "nominal" in (await http.post("/v1/experiments?dry_run=true", json=other)).json()["cost"]["basis"]


@pytest.mark.parametrize(
    ("workers", "steps", "precision", "reason"),
    [
        ([], [], None, "decided when the first job starts: "),
        ([("cpu", False), ("cpu", True)], [], "float32", "float32, because not every training worker here computes in"),
        ([("cuda:0 (H200)", True)], [], "bfloat16", "bfloat16, in which the GPUs here compute"),
        ([("cpu", True)], [(2, 0.01)], None, "decided when the first job starts: "),
        ([("cpu", True)], [(2, 0.01), (4, 0.038)], "bfloat16", "bfloat16, 1.6 times as fast as float32 here"),
        (
            [("cpu", True)],
            [(2, 0.01), (4, 0.01)],
            "float32",
            "float32, because bfloat16 is only 0.8 times as",
        ),
    ],
)
async def test_a_dry_run_explains_the_precision(
    http: AsyncClient, reporter: Reporter, workers: Any, steps: Any, precision: str | None, reason: str
) -> None:
    """A step in bfloat16 takes 0.008 s for 2 images and 0.02 s for 4."""
    report = {
        "ray": {"status": "connected"},
        "workers": [
            {"id": f"w{number}", "state": "idle", "device": device, "bfloat16": able}
            for number, (device, able) in enumerate(workers)
        ],
        "steps": [
            {"model": "resnet20", "batch_size": size, "float32_s": seconds, "bfloat16_s": {2: 0.008, 4: 0.02}[size]}
            for size, seconds in steps
        ],
    }
    starting = {"id": "w", "state": "starting", "device": "", "bfloat16": False}
    await reporter.heartbeat(report | {"workers": [starting, *report["workers"]]})
    preview = (await http.post("/v1/experiments?dry_run=true", json=BODY)).json()["precision"]
    assert preview["precision"] == precision
    assert preview["reason"].startswith(reason)


async def test_a_dry_run_of_jobs_that_name_their_precision_explains_nothing(http: AsyncClient) -> None:
    body = BODY | {"base": {"precision": "float32"}}
    assert (await http.post("/v1/experiments?dry_run=true", json=body)).json()["precision"] is None


async def test_the_precision_is_shown_once_it_is_resolved(http: AsyncClient, reporter: Reporter) -> None:
    id_ = (await http.post("/v1/experiments", json=BODY)).json()["id"]
    assert (await http.get(f"/v1/experiments/{id_}")).json()["precision"] is None
    job = await reporter.start()
    assert (await http.get(f"/v1/jobs/{job}")).json()["precision"] == "float32"
    assert (await http.get(f"/v1/experiments/{id_}")).json()["precision"] == "float32"
    others = (await http.get("/v1/jobs", params={"experiment": id_, "status": "queued"})).json()["data"]
    assert {other["precision"] for other in others} == {None}
    assert (await http.get(f"/v1/experiments/{id_}/results")).json()["precisions"] == ["float32"]


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"grid": GRID | {"batch_size": [2, 0]}}, "/grid/batch_size/1", "batch_size is 0"),
        (
            {"grid": GRID | {"normalization": [{"type": "group", "num_groups": 32}]}},
            "/grid/normalization/0/num_groups",
            "does not divide the 16 channels",
        ),
        ({"grid": GRID | {"optimizer.lr": [1]}}, "/grid/optimizer.lr/0", "There is no lr"),
        ({"base": {"epocs": 3}}, "/base/epocs", "did you mean epochs"),
        ({"grid": GRID | {"seed": list(range(251))}}, "/grid", "make 1004 jobs: give at most 1000"),
        ({"gird": {}}, "/gird", "There is no gird: did you mean grid?"),
        ({"builtin": "paper"}, "/builtin", "builtin is 'paper'"),
        ({"seeds": {"min": 5, "max": 4}}, "/seeds/max", "not above min"),
        ({"budget": 0}, "/budget", "budget is 0"),
    ],
)
async def test_what_cannot_work_is_refused_at_its_value(
    http: AsyncClient, change: dict[str, Any], pointer: str, says: str
) -> None:
    for dry_run in (False, True):
        answer = await http.post("/v1/experiments", params={"dry_run": dry_run}, json=BODY | change)
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error["pointer"] == pointer
        assert says in error["detail"]
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_the_same_key_makes_one_experiment(http: AsyncClient) -> None:
    key = {"Idempotency-Key": "once"}
    first, second = [await http.post("/v1/experiments", json=BODY, headers=key) for _ in range(2)]
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["id"] == second.json()["id"]
    other = await http.post("/v1/experiments", json=BODY | {"name": "other"}, headers=key)
    assert other.status_code == 422
    assert first.json()["id"] in other.json()["detail"]
    as_a_job = await http.post("/v1/jobs", json={"normalization": {"type": "batch"}, "batch_size": 2}, headers=key)
    assert as_a_job.status_code == 422
    assert len((await http.get("/v1/jobs")).json()["data"]) == 4


async def test_a_thousand_jobs_are_one_submission(http: AsyncClient) -> None:
    id_ = await submit(http, grid=GRID | {"seed": list(range(250))})
    assert (await http.get(f"/v1/experiments/{id_}")).json()["jobs"] == 1000


async def test_experiments_are_listed_newest_first_page_by_page(http: AsyncClient) -> None:
    ids = [await submit(http, name=f"number {n}") for n in range(3)]
    first = (await http.get("/v1/experiments?limit=2")).json()
    rest = (await http.get("/v1/experiments", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [entry["id"] for entry in first["data"] + rest["data"]] == ids[::-1]
    assert rest["next_cursor"] is None
    assert [entry["id"] for entry in (await http.get("/v1/experiments?search=BER 1")).json()["data"]] == [ids[1]]
    assert first["data"][0]["counts"] == {"queued": 4}


async def test_experiments_are_found_by_a_part_of_the_id(http: AsyncClient) -> None:
    first, second = [await submit(http) for _ in range(2)]
    for part, expected in [
        (first, [first]),
        (first[:-1], [first]),
        (second[-12:], [second]),
        (first[len("experiment_") :][:4], [second, first]),
        (first[1:-1], []),
    ]:
        answer = await http.get("/v1/experiments", params={"id": part})
        assert [experiment["id"] for experiment in answer.json()["data"]] == expected, part


async def test_an_experiment_shows_its_progress(http: AsyncClient, reporter: Reporter) -> None:
    small = {"model": "resnet20", "epochs": 10, "dataset": {"name": "synthetic", "train_limit": 40}}
    id_ = await submit(http, base=small, grid={"normalization": [{"type": "batch"}], "batch_size": [4], "seed": [0, 1]})
    await reporter.start()
    await reporter.finish()
    await reporter.start()
    await reporter.progress(25, images_per_s=10.0)
    experiment = (await http.get(f"/v1/experiments/{id_}")).json()
    assert (experiment["status"], experiment["counts"]) == ("running", {"succeeded": 1, "running": 1})
    assert experiment["progress"] == (1 + 25 / 100) / 2
    assert experiment["eta_s"] == pytest.approx(75 * 4 / 10 + 10 * 2000 / 30), "evaluations are forward passes"
    await reporter.metrics("eval", 2, 20, eval_images_per_s=500.0, test_error=0.5)
    await reporter.progress(25, images_per_s=10.0)
    experiment = (await http.get(f"/v1/experiments/{id_}")).json()
    assert experiment["eta_s"] == pytest.approx(75 * 4 / 10 + 8 * 2000 / 500)
    await reporter.finish()
    experiment = (await http.get(f"/v1/experiments/{id_}")).json()
    assert (experiment["status"], experiment["progress"], experiment["eta_s"]) == ("finished", 1, None)


async def test_an_experiment_is_steered_as_one(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http)
    await reporter.start()

    async def do(verb: str) -> tuple[int, str]:
        answer = await http.post(f"/v1/experiments/{id_}/{verb}")
        return answer.status_code, answer.json()["status"] if answer.status_code == 202 else answer.json()["detail"]

    assert await do("pause") == (202, "pausing")
    # Its worker takes a checkpoint: a resumed experiment would never end, as this job stays paused.
    code, detail = await do("resume")
    assert (code, detail) == (409, f"Experiment {id_} is still pausing (1 of its jobs): resume it once it is paused.")
    await reporter.finish("paused")
    assert await do("pause") == (202, "paused")
    assert await do("resume") == (202, "queued")
    await reporter.start()
    assert (await http.get(f"/v1/experiments/{id_}")).json()["status"] == "running"
    assert await do("cancel") == (202, "cancelling")
    assert (await http.delete(f"/v1/experiments/{id_}")).status_code == 409
    await reporter.finish("cancelled")
    assert await do("cancel") == (202, "cancelled")
    assert (await do("resume"))[0] == 409
    assert (await http.delete(f"/v1/experiments/{id_}")).status_code == 204
    assert (await http.get(f"/v1/experiments/{id_}")).status_code == 404
    assert (await http.get("/v1/jobs")).json()["data"] == []


async def test_the_files_of_a_deleted_experiment_go_too(http: AsyncClient, reporter: Reporter) -> None:
    id_ = await submit(http, grid={"normalization": [{"type": "batch"}], "batch_size": [4]})
    job = await reporter.start()
    checkpoint = await reporter.checkpoint(1, 10, {"state.pt": b"state"})
    assert (await http.get(f"/v1/checkpoints/{checkpoint}/files/state.pt")).status_code == 200
    await reporter.finish()
    assert reporter.artifacts.list_jobs() == [job]
    assert (await http.delete(f"/v1/experiments/{id_}")).status_code == 204
    assert reporter.artifacts.list_jobs() == []


class TestChange:
    async def test_adds_seeds_and_values_while_it_runs(self, http: AsyncClient, reporter: Reporter) -> None:
        id_ = await submit(http)
        await reporter.start()
        for _ in range(2):
            change = {"grid": {"seed": [1], "batch_size": [8]}, "name": "more", "priority": 5}
            answer = await http.patch(f"/v1/experiments/{id_}", json=change)
            assert answer.status_code == 200, answer.text
            experiment = answer.json()
            assert (experiment["name"], experiment["priority"], experiment["jobs"]) == ("more", 5, 2 * 3 * 2)
            assert experiment["grid"]["batch_size"] == [2, 4, 8]
        jobs = (await http.get(f"/v1/jobs?experiment={id_}&limit=100")).json()["data"]
        assert {job["priority"] for job in jobs} == {5}
        assert len(jobs) == 12

    async def test_labels_its_jobs_and_those_that_are_added(self, http: AsyncClient) -> None:
        id_ = await submit(http, base=BODY["base"] | {"labels": {"study": "paper", "who": "ann"}})
        alone = (await http.post("/v1/jobs", json={"normalization": {"type": "batch"}, "batch_size": 2})).json()["id"]
        for _ in range(2):
            change = {"labels": {"who": None, "tag": "odd", "study": "other"}}
            assert (await http.patch(f"/v1/experiments/{id_}", json=change)).status_code == 200
        await http.patch(f"/v1/experiments/{id_}", json={"grid": {"seed": [1]}})
        jobs = (await http.get(f"/v1/jobs?experiment={id_}")).json()["data"]
        assert [job["labels"] for job in jobs] == [{"study": "other", "tag": "odd"}] * 8
        assert (await http.get(f"/v1/jobs/{alone}")).json()["labels"] == {}
        for job, changes in ((jobs[-1], 1), (jobs[0], 0)):
            events = (await http.get(f"/v1/jobs/{job['id']}/events")).json()["data"]
            told = [event["labels"] for event in events if event["type"] == "changed"]
            assert told == [{"study": "other", "tag": "odd"}] * changes, "the second time nothing changes"

    @pytest.mark.parametrize(
        ("change", "status", "says"),
        [
            ({"labels": {f"key {n}": "v" for n in range(33)}}, 422, "would have 33 of them"),
            ({"labels": {"tune": "search"}}, 422, "tune is the label of the stage of a job"),
            ({"labels": {"a:b": "c"}}, 422, "contains a colon"),
            ({"grid": {"epochs": [1]}}, 422, "the grid has no epochs"),
            ({"grid": {"batch_size": [0]}}, 422, "batch_size is 0"),
            ({"grid": {"seed": list(range(300))}}, 422, "1200 jobs"),
            ({"seeds": {}}, 422, "There is no seeds"),
        ],
    )
    async def test_refuses_what_cannot_be_added(
        self, http: AsyncClient, change: dict[str, Any], status: int, says: str
    ) -> None:
        id_ = await submit(http)
        answer = await http.patch(f"/v1/experiments/{id_}", json=change | {"name": "changed"})
        assert answer.status_code == status
        assert says in answer.text
        experiment = (await http.get(f"/v1/experiments/{id_}")).json()
        assert (experiment["name"], experiment["jobs"]) == ("two by two", 4), "nothing was changed"

    async def test_keeps_the_plan_of_sequential_seeds(self, http: AsyncClient) -> None:
        id_ = await submit(http, seeds={"min": 2, "max": 4})
        answer = await http.patch(f"/v1/experiments/{id_}", json={"grid": {"batch_size": [8]}})
        assert answer.status_code == 409
        assert (await http.patch(f"/v1/experiments/{id_}", json={"priority": 3})).json()["priority"] == 3


async def test_sequential_seeds_say_what_was_planned(http: AsyncClient) -> None:
    preview = (await http.post("/v1/experiments?dry_run=true", json=BODY | {"seeds": {"min": 3, "max": 10}})).json()
    assert (len(preview["jobs"]), preview["most_jobs"]) == (12, 40)
    id_ = await submit(http, seeds={"min": 3, "max": 10})
    sequential = (await http.get(f"/v1/experiments/{id_}")).json()["sequential"]
    assert (sequential["interim_analyses"][0], sequential["interim_analyses"][-1]) == (3, 10)
    assert (sequential["interim_analysis"], sequential["seeds"], sequential["deciding"]) == (1, 3, True)
    assert "Holm" in sequential["procedure"]


async def test_the_built_in_experiments_are_listed_and_submitted_by_name(http: AsyncClient) -> None:
    listed = {entry["name"]: entry for entry in (await http.get("/v1/experiments/builtin")).json()["data"]}
    assert set(listed) == set(STUDIES)
    for name, entry in listed.items():
        answer = await http.post("/v1/experiments", json={"builtin": name, "budget": 0.01, "grid": {"seed": [0]}})
        assert answer.status_code == 201, answer.text
        experiment = answer.json()
        assert (experiment["builtin"], experiment["name"], experiment["budget"]) == (name, entry["title"], 0.01)
        assert experiment["jobs"] * 5 == entry["jobs"]


async def test_an_experiment_is_one_for_clients_at_once(http: AsyncClient) -> None:
    answers = await asyncio.gather(
        *(http.post("/v1/experiments", json=BODY, headers={"Idempotency-Key": "k"}) for _ in range(4))
    )
    assert len({answer.json()["id"] for answer in answers}) == 1


async def test_what_is_no_id_is_not_found(http: AsyncClient) -> None:
    for id_ in ("experiment_x", "x", "%00"):
        for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
            assert (await http.request(method, f"/v1/experiments/{id_}{path}")).status_code == 404


async def test_nonsense_however_deep_is_refused(http: AsyncClient) -> None:
    deep: Any = []
    for _ in range(400):
        deep = [deep]
    for body in ({"base": {"model": deep}, "grid": GRID}, {"grid": GRID | {"model": [deep]}}):
        answer = await http.post("/v1/experiments", json=body)
        assert answer.status_code == 422
        assert "model is " in answer.json()["detail"]
