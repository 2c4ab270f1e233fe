"""What the checkpoints take in the artifact store, by experiment and by job."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from service.api.context import Context
from service.api.filters import Text
from service.api.http.problems import describe
from service.experiments.titles import job_title, with_datasets
from service.jobs import Status
from service.store import experiments, storage
from service.store.tables import Experiment

router = APIRouter(tags=["storage"])

_Bytes = Annotated[int, Field(description="size of the files of these checkpoints, in bytes")]


class ExperimentStorage(BaseModel):
    """What the checkpoints of an experiment take."""

    id: str | None = Field(description="id of the experiment; null for all jobs without an experiment together")
    title: str | None = Field(description="display title of the experiment")
    jobs: int = Field(description="number of its jobs that have checkpoints")
    checkpoints: int
    bytes: _Bytes


class JobStorage(BaseModel):
    """What the checkpoints of a job take."""

    id: str
    title: str = Field(description="display title of the job")
    experiment: str | None = Field(description="id of its experiment")
    status: Status
    checkpoints: int
    bytes: _Bytes


class StorageView(BaseModel):
    """What the checkpoints take. Experiments and jobs without checkpoints are not listed."""

    checkpoints: int = Field(description="number of all checkpoints")
    bytes: _Bytes
    free_bytes: int | None = Field(
        description="free space on the file system of the artifact store; null if it is not a folder"
    )
    experiments: list[ExperimentStorage] = Field(description="those that take most, largest first")
    jobs: list[JobStorage] = Field(description="those that take most, largest first")


class StorageQuery(BaseModel):
    """The jobs to select, and the lengths of the lists."""

    model_config = ConfigDict(extra="forbid")

    experiment: Text | None = Field(default=None, description="only the jobs of this experiment are in `jobs`")
    limit: int = Field(default=50, ge=1, le=500, description="maximum length of each list")


@router.get("/v1/storage", operation_id="get_storage", responses=describe(401, 404, 422))
async def show(context: Context, query: Annotated[StorageQuery, Query()]) -> StorageView:
    """The disk space that checkpoints take, by experiment and by job."""
    async with context.database.read() as session:
        if query.experiment is not None:
            await experiments.get(session, query.experiment)
        total = await storage.total(session)
        of_experiments = await storage.by_experiment(session, query.limit)
        of_jobs = await storage.by_job(session, query.limit, query.experiment)
    return StorageView(
        checkpoints=total.checkpoints,
        bytes=total.size,
        free_bytes=await asyncio.to_thread(context.artifacts.free_bytes),
        experiments=[
            ExperimentStorage(
                id=experiment.id if experiment else None,
                title=_title(experiment) if experiment else None,
                jobs=taken.jobs,
                checkpoints=taken.checkpoints,
                bytes=taken.size,
            )
            for experiment, taken in of_experiments
        ],
        jobs=[
            JobStorage(
                id=job.id,
                title=job_title(job.name, job.spec),
                experiment=job.experiment_id,
                status=job.status,
                checkpoints=taken.checkpoints,
                bytes=taken.size,
            )
            for job, taken in of_jobs
        ],
    )


def _title(experiment: Experiment) -> str:
    return with_datasets(experiment.name or experiment.id, experiments.request_of(experiment).datasets)
