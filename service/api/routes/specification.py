"""The specification: the schemas of a job and an experiment, and the terms that responses use."""

import inspect
from functools import cache
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from service.experiments.request import ExperimentRequest
from service.experiments.status import ENDED, EXPERIMENT_ACTIONS, ExperimentAction, ExperimentStatus
from service.jobs import ACTIONS, ACTIVE, TERMINAL, Action, JobRequest, Status
from worker.architecture import ARCHITECTURES
from worker.metrics import METRICS, Metric
from worker.normalizations.none import NoNormalization
from worker.normalizations.normalization import Replaced
from worker.normalizations.registry import NORMALIZATIONS
from worker.recipes import RECIPES
from worker.spec import DATASET_SIZES

router = APIRouter(tags=["specification"])


class LayerView(BaseModel):
    """One normalization layer of a model."""

    name: str
    channels: int
    size: int = Field(description="height and width of its feature maps in pixels")


class ModelView(BaseModel):
    """A model, with its normalization layers."""

    name: str
    layers: list[LayerView]


class NormalizationView(BaseModel):
    """A normalization, and its parameters as JSON schema."""

    type: str
    description: str
    needs: str = Field(description="what it needs, such as a warm-up or a least number of values")
    reference: str = Field(description="publication")
    replaces: list[Replaced] = Field(description="what it replaces besides the normalization layer")
    distributed: bool = Field(description="whether a job may have several workers")
    parameters: dict[str, Any]


class DatasetView(BaseModel):
    """A dataset."""

    name: str
    train: int = Field(description="training images")
    test: int = Field(description="test images")


class StatusView(BaseModel):
    """A status."""

    name: str
    description: str = Field(description="a sentence that explains the status")
    ended: bool = Field(description="whether all work has ended in this status")


class ExperimentStatusView(StatusView):
    """A status of an experiment."""

    actions: list[ExperimentAction] = Field(description="actions that an experiment in this status permits")


class JobStatusView(StatusView):
    """A status of a job."""

    actions: list[Action] = Field(description="actions that a job in this status permits")
    active: bool = Field(description="whether the job occupies its workers")


class SpecificationView(BaseModel):
    """The schemas of `POST /v1/jobs` and `POST /v1/experiments`, and the terms that responses use."""

    job: dict[str, Any] = Field(description="JSON schema of the body of `POST /v1/jobs`, with defaults and help")
    experiment: dict[str, Any] = Field(
        description="JSON schema of the body of `POST /v1/experiments`, with defaults and help"
    )
    models: list[ModelView]
    normalizations: list[NormalizationView]
    recipes: dict[str, dict[str, Any]] = Field(description="the fields that each recipe sets unless they are given")
    datasets: list[DatasetView]
    metrics: list[Metric] = Field(description="in display order")
    statuses: list[JobStatusView] = Field(description="of jobs")
    experiment_statuses: list[ExperimentStatusView]


@router.get("/v1/specification", operation_id="get_specification")
async def show() -> SpecificationView:
    """The JSON schemas of a job and an experiment with defaults and help, and the terms that responses use."""
    return _specification()


@cache
def _specification() -> SpecificationView:
    schema = JobRequest.model_json_schema()
    # The schema of pydantic omits defaults that a factory creates: those of the parts of a job.
    defaults = JobRequest(normalization=NoNormalization(), batch_size=1).model_dump(mode="json")
    for name, field in JobRequest.model_fields.items():
        if field.default_factory is not None:
            schema["properties"][name]["default"] = defaults[name]
    return SpecificationView(
        job=schema,
        experiment=ExperimentRequest.model_json_schema(),
        models=[
            ModelView(
                name=name,
                layers=[
                    LayerView(name=layer.layer, channels=layer.num_channels, size=layer.size)
                    for layer in architecture.feature_maps()
                ],
            )
            for name, architecture in ARCHITECTURES.items()
        ],
        normalizations=[
            NormalizationView(
                type=name,
                description=inspect.getdoc(normalization) or "",
                needs=normalization.needs,
                reference=normalization.reference,
                replaces=list(normalization.replaces),
                distributed=not normalization.not_distributed,
                parameters={
                    parameter: field
                    for parameter, field in schema["$defs"][normalization.__name__]["properties"].items()
                    if parameter != "type"
                },
            )
            for name, normalization in NORMALIZATIONS.items()
        ],
        recipes={str(name): fields for name, fields in RECIPES.items()},
        datasets=[DatasetView(name=name, train=train, test=test) for name, (train, test) in DATASET_SIZES.items()],
        metrics=list(METRICS.values()),
        statuses=[
            JobStatusView(
                name=status,
                description=status.description,
                ended=status in TERMINAL,
                active=status in ACTIVE,
                actions=sorted(ACTIONS[status]),
            )
            for status in Status
        ],
        experiment_statuses=[
            ExperimentStatusView(
                name=status,
                description=status.description,
                ended=status in ENDED,
                actions=sorted(EXPERIMENT_ACTIONS[status]),
            )
            for status in ExperimentStatus
        ],
    )
