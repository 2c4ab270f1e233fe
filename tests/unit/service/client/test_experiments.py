"""`client.experiments`: its requests, and its handling of the responses."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.client import ApiError, Client
from service.experiments.request import ExperimentRequest
from tests.unit.service.stand_in import CUT, Answer, StandIn, problem, running

GRID = {"normalization": [{"type": "batch"}], "batch_size": [2]}
ONE = "/v1/experiments/experiment_1"


@pytest.fixture
def service() -> Iterator[StandIn]:
    with running() as service:
        yield service


@pytest.fixture
def client(service: StandIn) -> Iterator[Client]:
    with Client(service.url, backoff_s=0.001, retry_s=2, patience_s=2) as client:
        yield client


def test_a_submission_is_one_however_often_it_has_to_be_sent(service: StandIn, client: Client) -> None:
    service.on("POST", "/v1/experiments", CUT, Answer({"id": "experiment_1"}, 201))
    request = ExperimentRequest.model_validate({"grid": GRID})
    assert client.experiments.submit(request) == {"id": "experiment_1"}
    first, second = service.to("POST", "/v1/experiments")
    assert first.body == second.body == {"grid": GRID}
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    client.experiments.submit({"builtin": "labml"}, "mine")
    assert service.requests[-1].headers["idempotency-key"] == "mine"


def test_a_bundle_can_come_from_a_pipe_and_is_sent_as_often_as_needed(
    service: StandIn, client: Client, tmp_path: Path
) -> None:
    service.on("POST", "/v1/bundles", CUT, Answer({"id": "experiment_1"}, 201))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"tar" * 1000,))
    writer.start()
    assert client.experiments.import_bundle(pipe) == {"id": "experiment_1"}
    writer.join()
    assert [request.body for request in service.to("POST", "/v1/bundles")] == [b"tar" * 1000] * 2


def test_a_dry_run_says_so(service: StandIn, client: Client) -> None:
    service.on("POST", "/v1/experiments", Answer({"jobs": []}))
    assert client.experiments.dry_run({"grid": GRID}) == {"jobs": []}
    assert service.requests[0].query == {"dry_run": ["true"]}
    assert "idempotency-key" not in service.requests[0].headers


def test_experiments_come_page_after_page(service: StandIn, client: Client) -> None:
    pages = [{"data": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"}, {"data": [{"id": "d"}], "next_cursor": None}]
    service.on("GET", "/v1/experiments", *map(Answer, pages))
    assert [entry["id"] for entry in client.experiments.list(search="x")] == ["a", "b", "d"]
    assert [request.query for request in service.requests] == [{"search": ["x"]}, {"search": ["x"], "cursor": ["c"]}]


def test_a_list_requests_at_most_the_given_number(service: StandIn, client: Client) -> None:
    service.on("GET", "/v1/experiments", Answer({"data": [{"id": "a"}, {"id": "b"}], "next_cursor": "c"}))
    assert [entry["id"] for entry in client.experiments.list(max_experiments=2)] == ["a", "b"]
    assert [request.query for request in service.requests] == [{"limit": ["2"]}]


def test_a_change_names_what_changes(service: StandIn, client: Client) -> None:
    service.on("PATCH", ONE, Answer({"id": "experiment_1"}))
    client.experiments.change("experiment_1", grid={"seed": [3]})
    client.experiments.change("experiment_1", name="", priority=0)
    client.experiments.change("experiment_1", labels={"a": "b", "c": None})
    assert [request.body for request in service.requests] == [
        {"grid": {"seed": [3]}},
        {"name": "", "priority": 0},
        {"labels": {"a": "b", "c": None}},
    ]


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume"])
def test_verbs_go_to_their_routes(service: StandIn, client: Client, verb: str) -> None:
    service.on("POST", f"{ONE}/{verb}", Answer({"status": "x"}, 202))
    assert getattr(client.experiments, verb)("experiment_1") == {"status": "x"}


def test_a_deletion_whose_answer_was_lost_is_one(service: StandIn, client: Client) -> None:
    service.on("DELETE", ONE, CUT, problem(404, "There is no experiment experiment_1."))
    client.experiments.delete("experiment_1")
    with pytest.raises(ApiError):
        client.experiments.delete("experiment_1")


def test_results_are_of_an_experiment_or_of_any_jobs(service: StandIn, client: Client) -> None:
    service.on("GET", f"{ONE}/results", Answer({"cells": [1]}))
    service.on("GET", "/v1/results", Answer({"cells": [2]}))
    assert client.experiments.results("experiment_1", metric="test_loss", step=None) == {"cells": [1]}
    assert client.experiments.results(label=["study:paper"], statistic="best") == {"cells": [2]}
    assert [request.query for request in service.requests] == [
        {"metric": ["test_loss"]},
        {"label": ["study:paper"], "statistic": ["best"]},
    ]


@pytest.mark.parametrize(("kind", "accept"), [("csv", "text/csv"), ("parquet", "application/vnd.apache.parquet")])
def test_a_flat_table_is_bytes(service: StandIn, client: Client, kind: str, accept: str) -> None:
    service.on("GET", f"{ONE}/results", Answer(b"row,column\n"))
    assert client.experiments.results_table("experiment_1", kind, table="cells") == b"row,column\n"  # type: ignore[arg-type]
    assert service.requests[0].headers["accept"] == accept


def test_the_built_in_ones_are_a_list(service: StandIn, client: Client) -> None:
    service.on("GET", "/v1/experiments/builtin", Answer({"data": [{"name": "labml"}]}))
    assert client.experiments.builtin() == [{"name": "labml"}]
