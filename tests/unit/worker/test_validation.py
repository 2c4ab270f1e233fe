"""Requests: a boolean is not a number, wherever a field is one or a list of them."""

import json
from typing import Any

import pytest
from pydantic import Field, ValidationError

from service.experiments.request import ExperimentRequest
from service.jobs import JobRequest
from worker.spec import TrainingSpec
from worker.validation import StrictModel

LEAST: dict[str, Any] = {"normalization": {"type": "batch"}, "batch_size": 2}


class Inner(StrictModel):
    count: int = 0


class Everything(StrictModel):
    count: int = Field(default=0, ge=0)
    maybe: int | None = None
    rate: float = 0.0
    pair: tuple[float, float] = (0.0, 0.0)
    counts: tuple[int, ...] = ()
    flag: bool = False
    either: bool | int = 0
    text: str = ""
    anything: Any = None
    inner: Inner = Inner()


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"count": True}, ("count",)),
        ({"maybe": False}, ("maybe",)),
        ({"rate": True}, ("rate",)),
        ({"pair": [0.5, True]}, ("pair", 1)),
        ({"counts": (1, True)}, ("counts", 1)),
        ({"inner": {"count": True}}, ("inner", "count")),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_boolean_is_no_number(given: dict[str, Any], path: tuple[str | int, ...], as_json: bool) -> None:
    with pytest.raises(ValidationError) as error:
        Everything.model_validate_json(json.dumps(given)) if as_json else Everything.model_validate(given)
    [problem] = error.value.errors()
    assert problem["loc"] == path
    assert isinstance(problem["input"], bool)
    assert problem["type"] in ("int_type", "float_type")


def test_every_boolean_is_named() -> None:
    with pytest.raises(ValidationError) as error:
        Everything.model_validate({"count": True, "rate": False, "pair": [True, True]})
    assert {problem["loc"] for problem in error.value.errors()} == {("count",), ("rate",), ("pair", 0), ("pair", 1)}


def test_what_is_no_number_may_be_a_boolean() -> None:
    found = Everything.model_validate({"flag": True, "either": True, "anything": True, "count": 1, "rate": 1})
    assert (found.flag, found.either, found.anything) == (True, True, True)


@pytest.mark.parametrize("name", sorted(TrainingSpec.model_fields.keys() - {"deterministic", "drop_last"}))
def test_no_field_of_a_job_takes_true(name: str) -> None:
    with pytest.raises(ValidationError):
        JobRequest.model_validate(LEAST | {name: True})


@pytest.mark.parametrize("name", ExperimentRequest.model_fields)
def test_no_field_of_an_experiment_takes_true(name: str) -> None:
    with pytest.raises(ValidationError):
        ExperimentRequest.model_validate({name: True})
