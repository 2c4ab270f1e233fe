"""The committed OpenAPI document is complete and equal to the application's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from service.api import examples
from service.api.http.problems import MEDIA_TYPE
from service.api.routes.experiments import ExperimentChange
from service.api.routes.session import SignIn
from service.api.routes.shares import ShareRequest
from service.api.routes.views import ViewRequest
from service.app import create_app
from service.experiments.request import ExperimentRequest, expand
from service.jobs import JobChange, JobExtension, JobRequest
from service.openapi import PATH, render
from service.settings import Settings
from worker.evaluation_spec import EvaluationSpec


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def operations(description: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        yield from ([part["$ref"]] if isinstance(part.get("$ref"), str) else [])
        part = list(part.values())
    if isinstance(part, list):
        for entry in part:
            yield from references(entry)


def test_the_committed_file_is_what_the_application_says(description: dict[str, Any]) -> None:
    assert PATH.read_text(encoding="utf-8") == render(description), (
        "the API has changed: run `make openapi` and review the difference"
    )


def test_it_does_not_depend_on_the_machine(description: dict[str, Any], tmp_path: Path) -> None:
    other = create_app(Settings(home=tmp_path, host="127.0.0.2", port=1)).openapi()
    assert render(other) == render(description)
    assert "tmp" not in render(description)


def test_every_reference_leads_somewhere(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(description)} <= schemas.keys()


def test_every_operation_has_a_name_a_summary_and_what_it_answers(description: dict[str, Any]) -> None:
    names = []
    for _, path, operation in operations(description):
        names.append(operation["operationId"])
        assert operation["description"], path
        assert any(status.startswith("2") for status in operation["responses"]), path
    assert len(names) == len(set(names))


def test_every_operation_has_a_title_of_its_own_and_an_example(description: dict[str, Any]) -> None:
    titles = []
    for method, path, operation in operations(description):
        titles.append(operation["summary"])
        assert len(titles[-1].split()) > 1, path
        [sample] = operation["x-codeSamples"]
        options, *address, _ = re.split(r'"?http://localhost:8000([^" ]*)', sample["source"], maxsplit=1)
        assert options == "curl -s ", path
        assert "{" not in address[0], path
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" in content or "--data-binary" in sample["source"], (method, path)
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("id_", sorted(examples.BODIES))
def test_the_body_of_an_example_is_valid(description: dict[str, Any], id_: str) -> None:
    bodies: dict[str, type[BaseModel]] = {
        "submit_job": JobRequest,
        "change_job": JobChange,
        "submit_experiment": ExperimentRequest,
        "change_experiment": ExperimentChange,
        "create_share": ShareRequest,
        "create_view": ViewRequest,
        "extend_job": JobExtension,
        "evaluate_checkpoint": EvaluationSpec,
        "sign_in": SignIn,
    }
    checked: Any = bodies[id_].model_validate(examples.BODIES[id_])
    if id_ == "submit_experiment":
        assert expand(checked.resolved())


def test_errors_are_described_as_problems(description: dict[str, Any]) -> None:
    for method, path, operation in operations(description):
        if not path.startswith("/v1/") or path == "/v1/specification":
            continue
        for status, answer in operation["responses"].items():
            if status == "default" or status.startswith(("4", "5")):
                assert list(answer["content"]) == [MEDIA_TYPE], (path, status)
        open_to_all = (method, path) in {("post", "/v1/session"), ("delete", "/v1/session")}
        assert operation.get("security") == (None if open_to_all else [{"HTTPBearer": []}, {"APIKeyCookie": []}]), path


def test_every_route_of_the_contract_is_there(description: dict[str, Any]) -> None:
    assert {f"{method.upper()} {path}" for method, path, _ in operations(description)} == {
        "GET /v1/experiments/{experiment_id}/bundle",
        "GET /v1/experiments/{experiment_id}/report",
        "GET /v1/experiments/{experiment_id}/figure.{format}",
        "GET /v1/experiments/{experiment_id}/curves.{format}",
        "GET /v1/curves.{format}",
        "GET /v1/comparison.{format}",
        "GET /v1/scatter.{format}",
        "GET /v1/parallel.{format}",
        "POST /v1/bundles",
        "POST /v1/bundles/example",
        "POST /v1/jobs",
        "GET /v1/jobs",
        "GET /v1/jobs/{job_id}",
        "PATCH /v1/jobs/{job_id}",
        "DELETE /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/cancel",
        "POST /v1/jobs/{job_id}/pause",
        "POST /v1/jobs/{job_id}/resume",
        "POST /v1/jobs/{job_id}/retry",
        "POST /v1/jobs/{job_id}/extend",
        "GET /v1/curves",
        "GET /v1/jobs/{job_id}/metrics",
        "GET /v1/jobs/{job_id}/logs",
        "GET /v1/jobs/{job_id}/events",
        "GET /v1/jobs/{job_id}/checkpoints",
        "GET /v1/jobs/{job_id}/checkpoints/{which}",
        "GET /v1/events",
        "GET /v1/checkpoints/{checkpoint_id}",
        "POST /v1/checkpoints/{checkpoint_id}/evaluate",
        "GET /v1/evaluations/{evaluation_id}",
        "GET /v1/jobs/{job_id}/evaluations",
        "GET /v1/checkpoints/{checkpoint_id}/files/{name}",
        "HEAD /v1/checkpoints/{checkpoint_id}/files/{name}",
        "POST /v1/experiments",
        "GET /v1/experiments",
        "GET /v1/experiments/builtin",
        "GET /v1/experiments/{experiment_id}",
        "PATCH /v1/experiments/{experiment_id}",
        "DELETE /v1/experiments/{experiment_id}",
        "POST /v1/experiments/{experiment_id}/cancel",
        "POST /v1/experiments/{experiment_id}/pause",
        "POST /v1/experiments/{experiment_id}/resume",
        "GET /v1/experiments/{experiment_id}/results",
        "GET /v1/results",
        "GET /v1/comparison",
        "GET /v1/cluster",
        "GET /v1/storage",
        "GET /v1/jobs/{job_id}/queue",
        "POST /v1/session",
        "GET /v1/session",
        "DELETE /v1/session",
        "POST /v1/experiments/{experiment_id}/shares",
        "GET /v1/experiments/{experiment_id}/shares",
        "DELETE /v1/experiments/{experiment_id}/shares/{share_id}",
        "GET /v1/webhook/deliveries",
        "GET /v1/views",
        "POST /v1/views",
        "DELETE /v1/views/{view_id}",
        "GET /v1/specification",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
    }
