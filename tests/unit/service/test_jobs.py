"""Statuses are described and connected; a request is a training specification with fields of the service."""

from pathlib import Path

import pytest
from pydantic import ValidationError

import service
from service.experiments.status import ENDED, EXPERIMENT_ACTIONS, ExperimentAction, ExperimentStatus
from service.jobs import ACTIONS, ACTIVE, TERMINAL, TRANSITIONS, Action, JobRequest, Status, state_diagram
from worker.spec import TrainingSpec

MINIMAL = {"normalization": {"type": "batch"}, "batch_size": 2}


def test_every_state_is_explained_and_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(Status)
    assert all(len(status.description) > 10 for status in Status)
    assert Status("queued") is Status.QUEUED
    assert f"{Status.QUEUED}" == "queued"


def test_every_state_is_reached_and_leads_to_an_end() -> None:
    reached, frontier = {Status.QUEUED}, {Status.QUEUED}
    while frontier:
        frontier = {after for status in frontier for after in TRANSITIONS[status]} - reached
        reached |= frontier
    assert reached == set(Status)
    for status in Status:
        ends, frontier = {status}, {status}
        while frontier:
            frontier = {after for before in frontier for after in TRANSITIONS[before]} - ends
            ends |= frontier
        assert ends & TERMINAL, status


def test_terminal_states_are_final_and_no_worker_holds_them() -> None:
    assert {Status.SUCCEEDED, Status.FAILED, Status.CANCELLED} == TERMINAL
    assert not TERMINAL & ACTIVE
    assert not any(status in after for status, after in TRANSITIONS.items()), "no state follows itself"


def test_a_job_is_cancelled_only_once_its_worker_is_free() -> None:
    assert all(Status.CANCELLED not in TRANSITIONS[status] for status in ACTIVE - {Status.CANCELLING})


def test_a_request_is_a_training_and_what_the_service_adds() -> None:
    request = JobRequest.model_validate(
        MINIMAL | {"recipe": "wu-he", "name": "bn", "labels": {"a": "b"}, "priority": 3, "max_retries": 0}
    )
    assert request.training == TrainingSpec.model_validate(MINIMAL | {"recipe": "wu-he"})
    assert set(JobRequest.model_fields) - set(TrainingSpec.model_fields) == {
        "name",
        "labels",
        "priority",
        "max_retries",
    }
    assert not hasattr(request.training, "labels")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"labels": {"a:b": "c"}}, "labels: the key a:b contains a colon, which separates key and value in a filter"),
        ({"labels": {"": "c"}}, "at least 1 character"),
        ({"labels": {"a": "x" * 101}}, "at most 100 characters"),
        ({"labels": {str(n): "x" for n in range(33)}}, "at most 32 items"),
        ({"priority": 1001}, "less than or equal to 1000"),
        ({"max_retries": -1}, "greater than or equal to 0"),
        ({"name": "x" * 201}, "at most 200 characters"),
        ({"experiment": "e"}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_meant_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        JobRequest.model_validate(MINIMAL | given)


def test_every_status_of_a_job_and_an_experiment_says_what_can_be_done() -> None:
    assert set(ACTIONS) == set(Status)
    assert set(EXPERIMENT_ACTIONS) == set(ExperimentStatus)
    sentences = [member.description for kind in (Status, ExperimentStatus, Action, ExperimentAction) for member in kind]
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)
    assert all(Action.DELETE in ACTIONS[status] for status in TERMINAL)
    assert {status for status, actions in EXPERIMENT_ACTIONS.items() if ExperimentAction.DELETE in actions} == ENDED


def test_the_readme_draws_the_transitions_and_explains_every_status() -> None:
    readme = (Path(service.__file__).parent / "README.md").read_text()
    assert f"```mermaid\n{state_diagram()}\n```" in readme
    for status in Status:
        actions = ", ".join(sorted(ACTIONS[status])) or "none"
        assert f"| `{status}` | {status.description} | {actions} |" in readme
