"""The API agrees with its OpenAPI description, for valid and for invalid requests."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, strategies
from hypothesis import settings as hypothesis_settings
from pydantic import SecretStr
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.app import create_server
from service.artifacts import LocalArtifacts
from service.experiments.request import ExperimentRequest, Seeds, expand
from service.jobs import JobRequest
from service.openapi import PATH
from service.settings import Settings
from service.store import Database, evaluations, experiments, jobs, shares, views
from tests.integration.api.conftest import Listening
from tests.integration.api.reporter import Reporter
from worker.evaluation_spec import EvaluationSpec

BEYOND_SCHEMAS = [positive_data_acceptance]
"""A schema cannot express that groups must divide channels, or that a cursor must come from a page."""

TOKEN = "testers-token"
schemathesis.openapi.media_type("application/x-tar", strategies.binary())
SCHEMA = schemathesis.openapi.from_path(PATH)
OPERATIONS = {operation.ok().label: operation.ok() for operation in SCHEMA.get_all_operations()}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copy(empty_database, home / "normlab.db")
    return home


@pytest.fixture(scope="module")
def known(home: Path) -> dict[str, str]:
    """Path parameters of existing objects: a finished job with checkpoints, metrics and logs, and others."""

    async def make() -> dict[str, str]:
        settings = Settings(home=home)
        async with Database(settings.database) as database:
            reporter = Reporter(database, LocalArtifacts(Path(settings.artifacts)))
            async with database.write() as session:
                request = JobRequest.model_validate({"normalization": {"type": "batch"}, "batch_size": 2})
                await jobs.create(session, request)
            job = await reporter.start()
            await reporter.log("line")
            await reporter.metrics("eval", 1, 10, test_error=0.5, test_loss=float("nan"))
            await reporter.progress(11, images_per_s=5.0)
            checkpoint = await reporter.checkpoint(1, 10, {"state.pt": b"state"}, test_error=0.5)
            await reporter.heartbeat({"ray": {"status": "connected", "address": "a:1"}})
            async with database.write() as session:
                given = ExperimentRequest(builtin="paper-norms", seeds=Seeds()).resolved()
                experiment = await experiments.create(session, given, expand(given))
                view = await views.create(session, "known", "/jobs")
                evaluation = await evaluations.request(session, checkpoint, EvaluationSpec())
                share, _ = await shares.create(session, experiment.id, anonymous=False, lasts=None, created_by=None)
            ids = {"job_id": job, "checkpoint_id": checkpoint, "experiment_id": experiment.id, "view_id": view.id}
            ids |= {"evaluation_id": evaluation.id, "share_id": share.id}
            return ids | {"which": "best", "name": "state.pt", "format": "svg"}

    return asyncio.run(make())


@pytest.fixture(scope="module")
def url(home: Path, known: dict[str, str]) -> Iterator[str]:
    settings = Settings(home=home, port=0, api_tokens=SecretStr(f"tester:{TOKEN}"))
    with Listening(create_server(settings)) as listening:
        yield listening.url


def cases() -> Iterator[Any]:
    """Every operation with valid input, and with invalid input if it accepts any."""
    for label, operation in OPERATIONS.items():
        yield pytest.param(label, GenerationMode.POSITIVE, id=f"{label}-valid")
        if operation.path_parameters or operation.query or operation.body:
            yield pytest.param(label, GenerationMode.NEGATIVE, id=f"{label}-invalid")


@pytest.mark.parametrize(("label", "mode"), list(cases()))
def test_every_operation_answers_as_described(
    label: str, mode: GenerationMode, url: str, known: dict[str, str]
) -> None:
    operation = OPERATIONS[label]

    @given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=10, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def answers_as_described(case: Any) -> None:
        # Streams do not end by themselves; test_events.py tests them.
        page = {"Accept": "application/json", "Authorization": f"Bearer {TOKEN}"}
        case.call_and_validate(base_url=url, headers=page, excluded_checks=BEYOND_SCHEMAS)
        if case.path_parameters and mode is GenerationMode.POSITIVE:
            case.path_parameters |= {name: known[name] for name in case.path_parameters}
            case.call_and_validate(base_url=url, headers=page, excluded_checks=BEYOND_SCHEMAS)

    answers_as_described()
