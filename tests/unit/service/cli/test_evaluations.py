"""`normlab evaluate` waits for the result, and prints the classes with what they are mistaken for."""

import re
from typing import Any

import pytest

from service.cli.exits import Exit
from service.client import Client
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, Json, StandIn

QUEUED: Json = {
    "id": "evaluation_1",
    "job": "job_1",
    "checkpoint": "checkpoint_1",
    "epoch": 1,
    "step": 10,
    "split": "test",
    "precision": "float32",
    "batch_statistics": 4,
    "precise_statistics": None,
    "status": "queued",
    "error": None,
    "predictions": None,
}
PREDICTIONS: Json = {
    "images": 10,
    "error": 0.3,
    "loss": 1.25,
    "device": "cpu",
    "classes": [
        {"name": "cat", "images": 6, "error": 0.5},
        {"name": "dog", "images": 4, "error": 0.0},
        {"name": "frog", "images": 0, "error": None},
    ],
    "confusion": [[3, 2, 1], [0, 4, 0], [0, 0, 0]],
    "mistakes": [],
}
ENDED = QUEUED | {"status": "succeeded", "predictions": PREDICTIONS}


@pytest.fixture
def evaluating(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A service that has computed an evaluation when it is looked at for the second time."""
    monkeypatch.setattr("service.client.client.time.sleep", lambda _: None)
    service.on("GET", "/v1/jobs/job_1/checkpoints/best", Answer({"id": "checkpoint_1"}))
    service.on("POST", "/v1/checkpoints/checkpoint_1/evaluate", Answer(QUEUED, 202))
    service.on("GET", "/v1/evaluations/evaluation_1", Answer(QUEUED | {"status": "running"}), Answer(ENDED))
    return service


def test_the_best_checkpoint_of_a_job_is_evaluated_and_its_classes_are_printed(run: Run, evaluating: StandIn) -> None:
    ended = run("--url", evaluating.url, "evaluate", "job_1", "--batch-statistics", "4")
    assert ended.code == Exit.OK
    (asked,) = evaluating.to("POST", "/v1/checkpoints/checkpoint_1/evaluate")
    assert asked.body == {"batch_statistics": 4}
    lines = ended.out.splitlines()
    assert [line.split(maxsplit=1)[-1].strip() for line in lines[:1]] == ["checkpoint_1"]
    assert [re.split(r"  +", line) for line in lines[1:6]] == [
        ["normalized by", "statistics of batches of 4"],
        ["precision", "float32"],
        ["images", "10, test"],
        ["error", "30.0 %"],
        ["loss", "1.2500"],
    ]
    assert [line.split() for line in lines[6:] if line] == [
        ["CLASS", "IMAGES", "ERROR", "MISTAKEN", "FOR"],
        ["cat", "6", "50.0", "%", "dog", "2,", "frog", "1"],
        ["dog", "4", "0.0", "%", "–"],
        ["frog", "0", "–", "–"],
        ["CLASS", "\\", "PREDICTED", "cat", "dog", "frog"],
        ["cat", "3", "2", "1"],
        ["dog", "0", "4", "0"],
        ["frog", "0", "0", "0"],
    ]


def test_all_choices_are_sent_and_the_answer_is_json(run: Run, evaluating: StandIn) -> None:
    choices = ["--split", "train", "--precision", "bfloat16", "--json"]
    ended = run("--url", evaluating.url, "evaluate", "checkpoint_1", *choices)
    assert ended.json == ENDED
    (asked,) = evaluating.to("POST", "/v1/checkpoints/checkpoint_1/evaluate")
    assert asked.body == {"split": "train", "precision": "bfloat16"}


def test_a_failure_is_the_reason_and_an_exit_code(run: Run, evaluating: StandIn) -> None:
    failed = QUEUED | {"status": "failed", "error": "out of memory", "batch_statistics": None}
    evaluating.on("GET", "/v1/evaluations/evaluation_1", Answer(failed))
    ended = run("--url", evaluating.url, "evaluate", "job_1/best")
    assert ended.code == Exit.FAILED
    assert re.search(r"failed +out of memory\n$", ended.out)


def test_the_client_can_leave_at_once_and_list(evaluating: StandIn) -> None:
    listed: Any = {"data": [ENDED], "next_cursor": None}
    evaluating.on("GET", "/v1/jobs/job_1/evaluations", Answer(listed))
    with Client(evaluating.url) as client:
        assert client.evaluate("checkpoint_1", wait_s=0) == QUEUED
        assert client.evaluations("job_1") == [ENDED]
