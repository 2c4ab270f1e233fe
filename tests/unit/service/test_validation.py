"""pydantic's errors are translated into fields and readable messages."""

from typing import Any

import pytest
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from service.api.http.field_problems import FieldProblem, field_problems
from service.jobs import JobRequest
from service.validation import locate, shown
from worker.normalizations.registry import Normalization


class Grid(BaseModel):
    """A body with lists of discriminated unions, like that of an experiment."""

    normalization: list[Normalization]
    base: JobRequest


async def _accept_job(body: JobRequest) -> None: ...


async def _accept_grid(body: Grid) -> None: ...


JOB = APIRoute("/jobs", _accept_job, methods=["POST"])
GRID = APIRoute("/grids", _accept_grid, methods=["POST"])


def problems(route: APIRoute, model: type[BaseModel], body: Any) -> list[FieldProblem]:
    with pytest.raises(ValidationError) as error:
        model.model_validate(body)
    return field_problems([{**e, "loc": ("body", *e["loc"])} for e in error.value.errors()], route)


@pytest.mark.parametrize(
    ("loc", "path"),
    [
        (["batch_size"], ["batch_size"]),
        (["normalization", "group", "num_groups"], ["normalization", "num_groups"]),
        (["normalization", "group"], ["normalization"]),
        (["optimizer", "adam", "betas", 1], ["optimizer", "betas", 1]),
        (["labels", "adam"], ["labels", "adam"]),
        (["labels", "key", "[key]"], ["labels", "key"]),
        (["dataset", "name"], ["dataset", "name"]),
        ([], []),
    ],
)
def test_a_location_leads_to_the_field_in_the_body(loc: list[str | int], path: list[str | int]) -> None:
    assert locate(loc, JobRequest)[0] == path


def test_the_tag_of_a_union_in_a_list_is_no_part_of_the_pointer() -> None:
    body = {
        "normalization": [{"type": "batch"}, {"type": "group", "num_groups": 0}, {"type": "x"}],
        "base": {"normalization": {"type": "batch", "eps": 2}, "batch_size": 2},
    }
    assert [problem.pointer for problem in problems(GRID, Grid, body)] == [
        "/normalization/1/num_groups",
        "/normalization/2/type",
        "/base/normalization/eps",
    ]


def test_a_sentence_of_ours_is_kept_and_points_to_the_field_it_names() -> None:
    body = {"normalization": {"type": "group", "num_groups": 5}, "batch_size": 2}
    [problem] = problems(JOB, JobRequest, body)
    assert problem.pointer == "/normalization/num_groups"
    assert problem.detail.startswith("num_groups is 5, which does not divide the 16 channels")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"epochs": None}, "epochs is None: input should be a valid integer."),
        ({"epochs": 1.5}, "epochs is 1.5: input should be a valid integer, got a number with a fractional part."),
        ({"deterministic": "perhaps"}, "deterministic is 'perhaps': input should be a valid boolean"),
        ({"schedule": {"type": "cosine", "gamma": 1}}, "There is no gamma: give one of final_fraction, type, warmup"),
        ({"schedule": {"type": "cosine", "final_fractoin": 1}}, "There is no final_fractoin: did you mean final_frac"),
        ({"schedule": {"type": "linear"}}, "type is 'linear': give one of constant, multistep, cosine."),
    ],
)
def test_the_sentence_has_the_value_and_what_is_accepted(change: dict[str, Any], detail: str) -> None:
    body = {"normalization": {"type": "batch"}, "batch_size": 2} | change
    [problem] = problems(JOB, JobRequest, body)
    expected = detail.replace("None", "null")
    assert problem.detail.startswith(expected)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_whatever_was_sent_is_quoted_shortly(value: object) -> None:
    assert 0 < len(shown(value)) < 120


@given(
    st.dictionaries(st.sampled_from(list(JobRequest.model_fields)) | st.text(), st.none() | st.integers() | st.text())
)
def test_every_refused_body_gets_a_pointer_into_it_for_each_error(body: dict[str, Any]) -> None:
    try:
        JobRequest.model_validate(body)
    except ValidationError as error:
        found = field_problems([{**e, "loc": ("body", *e["loc"])} for e in error.errors()], JOB)
        assert found
        for problem in found:
            assert problem.pointer is not None
            first = problem.pointer.split("/")[1].replace("~1", "/").replace("~0", "~")
            assert first in body or first in ("normalization", "batch_size")
            assert problem.detail
