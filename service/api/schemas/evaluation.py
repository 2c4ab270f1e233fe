"""The JSON of evaluations, as clients see it."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from service.store.tables import Evaluation, Job
from worker.events import Evaluated, Mistake, Precision
from worker.metrics import SplitName
from worker.spec import CLASS_NAMES

EvaluationStatus = Literal["queued", "running", "succeeded", "failed"]


class ClassError(BaseModel):
    """The error on the images of one class."""

    name: str
    images: int
    error: float | None = Field(description="fraction of its images that are misclassified; null without images")


class Predictions(BaseModel):
    """What a network predicts for all images of a split."""

    images: int
    error: float = Field(description="fraction of the images that are misclassified")
    loss: float | None = Field(description="mean cross-entropy in nats; null if it is not finite")
    device: str
    classes: list[ClassError]
    confusion: list[list[int]] = Field(
        description="number of images by their class (row) and the predicted class (column), in the order of `classes`"
    )
    mistakes: list[Mistake] = Field(description="the misclassified images of the greatest confidence, that one first")


class EvaluationView(BaseModel):
    """An evaluation of a checkpoint."""

    id: str
    job: str
    checkpoint: str = Field(description="it may have been removed since")
    epoch: int = Field(description="epochs completed at the checkpoint")
    step: int
    split: SplitName
    precision: Precision | None = Field(description="null: that of the training, which is not known yet")
    batch_statistics: int | None = Field(
        description="images per batch by whose statistics layers normalize; null: running averages"
    )
    precise_statistics: int | None = Field(
        description="training images at most over which the running averages are estimated again; null: those of the "
        "training"
    )
    status: EvaluationStatus = Field(description="queued: it waits for an idle worker")
    error: str | None = Field(description="why it failed")
    predictions: Predictions | None = Field(description="null until it has succeeded")
    created_at: datetime
    finished_at: datetime | None


def evaluation_view(evaluation: Evaluation, job: Job) -> EvaluationView:
    """One evaluation of a checkpoint of `job`."""
    asked = evaluation.request
    return EvaluationView.model_validate(
        {
            "id": evaluation.id,
            "job": evaluation.job_id,
            "checkpoint": evaluation.checkpoint_id,
            "epoch": evaluation.epoch,
            "step": evaluation.step,
            "split": asked["split"],
            "precision": asked["precision"],
            "batch_statistics": asked["batch_statistics"],
            "precise_statistics": asked["precise_statistics"],
            "status": str(evaluation.status),
            "error": evaluation.error,
            "predictions": _predictions(evaluation, job),
            "created_at": evaluation.created_at,
            "finished_at": evaluation.finished_at,
        }
    )


def confusion_rows(predictions: Predictions) -> list[dict[str, str | int | float | None]]:
    """Return the confusion matrix as flat rows: one for each class, with the number of images by predicted class."""
    names = [one.name for one in predictions.classes]
    return [
        {"class": one.name, **dict(zip(names, row, strict=True)), "images": one.images, "error": one.error}
        for one, row in zip(predictions.classes, predictions.confusion, strict=True)
    ]


def _predictions(evaluation: Evaluation, job: Job) -> Predictions | None:
    if evaluation.result is None:
        return None
    result = Evaluated.model_validate(evaluation.result)
    classes = [
        ClassError(name=name, images=sum(row), error=(sum(row) - row[number]) / sum(row) if sum(row) else None)
        for number, (name, row) in enumerate(
            zip(CLASS_NAMES[job.spec["dataset"]["name"]], result.confusion, strict=True)
        )
    ]
    return Predictions(
        images=result.images,
        error=result.error,
        loss=result.loss,
        device=result.device,
        classes=classes,
        confusion=result.confusion,
        mistakes=result.mistakes,
    )
