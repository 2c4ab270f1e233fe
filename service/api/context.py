"""The services that routes depend on, and their path parameters."""

import re
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import AfterValidator

from service.api.prometheus import Telemetry
from service.api.tailer import Tailer
from service.artifacts import ArtifactStore
from service.errors import NotFound
from service.settings import Settings
from service.store import Database, leases

_IDENTIFIER = re.compile(r"[a-z]{1,20}_[0-9a-z]{1,40}")


@dataclass(frozen=True)
class Services:
    """The shared objects of one process. None of them holds state that another replica needs."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    tailer: Tailer
    telemetry: Telemetry
    watch: leases.Watch = field(default_factory=leases.Watch)
    """What this process has seen of the lease of the dispatcher."""


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _known_form(noun: str) -> AfterValidator:
    def check(id_: str) -> str:
        # Rejected before the query, because PostgreSQL refuses some strings, such as those with U+0000.
        if not _IDENTIFIER.fullmatch(id_):
            raise NotFound(noun, repr(id_)[:80])
        return id_

    return AfterValidator(check)


Context = Annotated[Services, Depends(_services)]
JobId = Annotated[str, Path(alias="job_id", description="id of the job"), _known_form("job")]
CheckpointId = Annotated[
    str, Path(alias="checkpoint_id", description="id of the checkpoint"), _known_form("checkpoint")
]
EvaluationId = Annotated[
    str, Path(alias="evaluation_id", description="id of the evaluation"), _known_form("evaluation")
]
ShareId = Annotated[str, Path(alias="share_id", description="id of the share"), _known_form("share")]
ViewId = Annotated[str, Path(alias="view_id", description="id of the view"), _known_form("view")]
ExperimentId = Annotated[
    str, Path(alias="experiment_id", description="id of the experiment"), _known_form("experiment")
]
