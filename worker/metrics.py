"""The metrics of a training job: what each is called, its unit, and whether a lower or a higher value is better.

This table is the only place that describes a metric. The training loop takes the names of what it reports from here,
the service the metrics that jobs are sorted, compared and judged by, and the API serves the table to its clients. The
module needs pydantic alone.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MetricKind = Literal["train", "eval", "telemetry"]
"""Rows of metrics: `train` several times an epoch, `eval` at the end of each, `telemetry` on layers and gradient."""

EvaluatedSplit = Literal["holdout", "test"]
"""Images that an epoch is evaluated on: those that are held out of the training images, and the test images."""
SplitName = Literal["train", "test", "holdout"]
"""A part of the images of a job: those it trains on, the test images, the training images that it holds out."""

OutcomeMetric = Literal[
    "test_error", "test_loss", "holdout_error", "holdout_loss", "train_error", "train_loss", "images_per_s"
]
"""Names of the metrics that jobs can be sorted, compared and judged by."""

MetricName = (
    OutcomeMetric
    | Literal[
        "learning_rate",
        "eval_mode_error",
        "train_mode_error",
        "activation_rms",
        "gain_rms",
        "mean_gap",
        "variance_gap",
    ]
    | Literal["percentile_1", "percentile_20", "percentile_80", "percentile_99"]
    | Literal["gradient_norm", "gradient_distance_min", "gradient_distance_max"]
    | Literal["step_loss_min", "step_loss_max", "effective_smoothness", "stage_gradient_norm"]
)

Quantity = Literal[
    "error",
    "loss",
    "throughput",
    "learning_rate",
    "activation_rms",
    "gain_rms",
    "mean_gap",
    "variance_gap",
    "features",
    "gradient_norm",
    "smoothness",
]
Unit = Literal["fraction", "nats", "images/s", "standard deviations", ""]


class Metric(BaseModel):
    """One metric that a training job reports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: MetricName = Field(description="key of the value in a row of metrics; see `per_layer`")
    title: str = Field(description="human-readable name, in lower case as within a sentence")
    description: str = Field(description="definition, one sentence")
    kind: MetricKind = Field(description="kind of the rows that it is reported in")
    quantity: Quantity = Field(description="what is measured; metrics of one quantity can share an axis")
    unit: Unit = Field(description="unit of the reported value; empty: it has none")
    format: Literal["percent", "decimal", "integer"] = Field(
        description="how the value is shown; percent: multiplied by 100, with a percent sign"
    )
    better: Literal["lower", "higher"] | None = Field(
        default=None, description="which values are better; null: neither"
    )
    split: SplitName | None = Field(
        default=None, description="images that it is computed on; null: it does not depend on one fixed set of images"
    )
    best_note: str | None = Field(default=None, description="reservation about its best value over the epochs of a job")
    selected_by: OutcomeMetric | None = Field(
        default=None,
        description="metric of the held-out images that chooses the best epoch of a job with a holdout: the best value "
        "is then the one at the epoch at which this metric is lowest; null: the best value is the lowest or highest",
    )
    selected_note: str | None = Field(default=None, description="note on a best value that `selected_by` chose")
    outcome: bool = Field(default=False, description="whether jobs can be sorted, compared and judged by it")
    per_layer: bool = Field(
        default=False, description="whether it is reported once for every measured layer, as `layer/name`"
    )
    from_zero: bool = Field(default=False, description="whether the value axis of its chart starts at zero")

    def of_layer(self, layer: str) -> str:
        """The key of the metric of one layer in a row, `layer/name`."""
        assert self.per_layer, f"{self.name} is a metric of the whole model"
        return f"{layer}/{self.name}"


CHOSEN_ON_THE_TEST_SET = "optimistic: chosen on the test set"
CHOSEN_ON_THE_HOLDOUT = "chosen on the holdout"

TEST_ERROR = Metric(
    name="test_error",
    title="test error",
    description="Fraction of the test images whose largest logit is not that of their label.",
    kind="eval",
    quantity="error",
    unit="fraction",
    format="percent",
    better="lower",
    split="test",
    best_note=CHOSEN_ON_THE_TEST_SET,
    selected_by="holdout_error",
    selected_note=CHOSEN_ON_THE_HOLDOUT,
    outcome=True,
)
TEST_LOSS = Metric(
    name="test_loss",
    title="test loss",
    description="Mean cross-entropy over the test images.",
    kind="eval",
    quantity="loss",
    unit="nats",
    format="decimal",
    better="lower",
    split="test",
    best_note=CHOSEN_ON_THE_TEST_SET,
    selected_by="holdout_loss",
    selected_note=CHOSEN_ON_THE_HOLDOUT,
    outcome=True,
)
HOLDOUT_ERROR = Metric(
    name="holdout_error",
    title="holdout error",
    description="Fraction of the held-out training images whose largest logit is not that of their label.",
    kind="eval",
    quantity="error",
    unit="fraction",
    format="percent",
    better="lower",
    split="holdout",
    best_note=f"optimistic: {CHOSEN_ON_THE_HOLDOUT}",
    outcome=True,
)
HOLDOUT_LOSS = Metric(
    name="holdout_loss",
    title="holdout loss",
    description="Mean cross-entropy over the held-out training images.",
    kind="eval",
    quantity="loss",
    unit="nats",
    format="decimal",
    better="lower",
    split="holdout",
    best_note=f"optimistic: {CHOSEN_ON_THE_HOLDOUT}",
    outcome=True,
)
TRAIN_ERROR = Metric(
    name="train_error",
    title="train error",
    description="Fraction of the augmented training images misclassified since the previous row, during training.",
    kind="train",
    quantity="error",
    unit="fraction",
    format="percent",
    better="lower",
    split="train",
    outcome=True,
)
TRAIN_LOSS = Metric(
    name="train_loss",
    title="train loss",
    description="Mean cross-entropy over the augmented training images since the previous row, during training.",
    kind="train",
    quantity="loss",
    unit="nats",
    format="decimal",
    better="lower",
    split="train",
    outcome=True,
)
IMAGES_PER_S = Metric(
    name="images_per_s",
    title="images per second",
    description="Training images per second, all workers together, without evaluations and checkpoints.",
    kind="train",
    quantity="throughput",
    unit="images/s",
    format="integer",
    better="higher",
    split="train",
    outcome=True,
    from_zero=True,
)
LEARNING_RATE = Metric(
    name="learning_rate",
    title="learning rate",
    description="Learning rate of the latest step, after scaling, schedule and warm-up.",
    kind="train",
    quantity="learning_rate",
    unit="",
    format="decimal",
    from_zero=True,
)
EVAL_MODE_ERROR = Metric(
    name="eval_mode_error",
    title="error in evaluation mode",
    description="Error on the telemetry images with every batch normalization using its running averages.",
    kind="telemetry",
    quantity="error",
    unit="fraction",
    format="percent",
    better="lower",
)
TRAIN_MODE_ERROR = Metric(
    name="train_mode_error",
    title="error in training mode",
    description="Error on the telemetry images with every batch normalization using the statistics of its batch.",
    kind="telemetry",
    quantity="error",
    unit="fraction",
    format="percent",
    better="lower",
)


def _of_layers(name: MetricName, title: str, description: str, quantity: Quantity, unit: Unit = "") -> Metric:
    """A metric of every measured normalization layer."""
    return Metric(
        name=name,
        title=title,
        description=description,
        kind="telemetry",
        quantity=quantity,
        unit=unit,
        format="decimal",
        per_layer=True,
    )


def _of_the_gradient(name: MetricName, title: str, description: str, quantity: Quantity = "gradient_norm") -> Metric:
    """A metric of the gradient at the weights of an epoch, and of the gradients along a step from there."""
    of_loss = quantity == "loss"
    return Metric(
        name=name,
        title=title,
        description=description,
        kind="telemetry",
        quantity=quantity,
        unit="nats" if of_loss else "",
        format="decimal",
        better="lower" if of_loss else None,
    )


ACTIVATION_RMS = _of_layers(
    "activation_rms", "activation RMS", "Root mean square of the input of the normalization layer.", "activation_rms"
)
GAIN_RMS = _of_layers(
    "gain_rms", "gain RMS", "Root mean square of the learned scale of the normalization layer.", "gain_rms"
)
MEAN_GAP = _of_layers(
    "mean_gap",
    "mean gap",
    "Distance of the mean of a batch from the running mean, in running standard deviations.",
    "mean_gap",
    "standard deviations",
)
VARIANCE_GAP = _of_layers(
    "variance_gap",
    "variance gap",
    "Distance of the variance of a batch from the running variance, as |ln(batch / running)|.",
    "variance_gap",
)
_PERCENTILES: tuple[tuple[int, str, MetricName], ...] = (
    (1, "1st", "percentile_1"),
    (20, "20th", "percentile_20"),
    (80, "80th", "percentile_80"),
    (99, "99th", "percentile_99"),
)
PERCENTILES: Mapping[int, Metric] = {
    percent: _of_layers(name, f"{place} percentile", f"{place} percentile of the input of the layer.", "features")
    for percent, place, name in _PERCENTILES
}
"""The percentiles of the features before a normalization layer (Wu & He 2018, figure 6), by their per cent."""
GRADIENT_NORM = _of_the_gradient("gradient_norm", "gradient norm", "l2 norm of the gradient of the training loss.")
STAGE_GRADIENT_NORM = _of_layers(
    "stage_gradient_norm", "gradient norm by stage", "l2 norm of the gradient of a stage's weights.", "gradient_norm"
)
GRADIENT_DISTANCE_MIN = _of_the_gradient(
    "gradient_distance_min",
    "least gradient distance",
    "Least l2 distance of the gradients along the step from the gradient at its beginning.",
)
GRADIENT_DISTANCE_MAX = _of_the_gradient(
    "gradient_distance_max",
    "greatest gradient distance",
    "Greatest l2 distance of the gradients along the step from the gradient at its beginning.",
)
STEP_LOSS_MIN = _of_the_gradient(
    "step_loss_min", "least loss along the step", "Least training loss along the step, with its beginning.", "loss"
)
STEP_LOSS_MAX = _of_the_gradient(
    "step_loss_max",
    "greatest loss along the step",
    "Greatest training loss along the step, with its beginning.",
    "loss",
)
EFFECTIVE_SMOOTHNESS = _of_the_gradient(
    "effective_smoothness",
    "effective smoothness",
    "Greatest ratio of the l2 distance of a gradient along the step to the distance of the weights.",
    "smoothness",
)

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        TEST_ERROR,
        TEST_LOSS,
        HOLDOUT_ERROR,
        HOLDOUT_LOSS,
        TRAIN_ERROR,
        TRAIN_LOSS,
        IMAGES_PER_S,
        LEARNING_RATE,
        EVAL_MODE_ERROR,
        TRAIN_MODE_ERROR,
        MEAN_GAP,
        VARIANCE_GAP,
        ACTIVATION_RMS,
        GAIN_RMS,
        *PERCENTILES.values(),
        STAGE_GRADIENT_NORM,
        GRADIENT_NORM,
        GRADIENT_DISTANCE_MIN,
        GRADIENT_DISTANCE_MAX,
        STEP_LOSS_MIN,
        STEP_LOSS_MAX,
        EFFECTIVE_SMOOTHNESS,
    )
}
"""Every metric, by name, in display order."""


EVALUATIONS: Mapping[EvaluatedSplit, tuple[Metric, Metric]] = {
    "holdout": (HOLDOUT_LOSS, HOLDOUT_ERROR),
    "test": (TEST_LOSS, TEST_ERROR),
}
"""The loss and the error on each split that an epoch is evaluated on."""


def default_outcome(*, tested: bool) -> OutcomeMetric:
    """The metric that a job is judged by unless another is chosen: the error on the test images.

    Args:
        tested: Whether the job is evaluated on test images; if not, the error on its holdout is all there is.
    """
    return "test_error" if tested else "holdout_error"


def best_note(name: str, *, holdout: bool) -> str | None:
    """The note on the best value of a metric over the epochs of a job; None if there is nothing to say.

    Args:
        name: The name of the metric.
        holdout: Whether the job holds out training images, on which its best epoch is chosen.
    """
    metric = METRICS.get(name)
    if metric is None:
        return None
    return metric.selected_note if holdout and metric.selected_by else metric.best_note


def selection_error(values: Mapping[str, float | None]) -> float | None:
    """The error among the metrics of an evaluation that chooses the best one: on the holdout if there is one.

    Returns:
        None if there is none, or if it is not finite.
    """
    return _first(values, HOLDOUT_ERROR, TEST_ERROR)


def evaluation_error(values: Mapping[str, float | None]) -> float | None:
    """The error among the metrics of an evaluation: on the test images if they were evaluated, else on the holdout.

    Returns:
        None if there is none, or if it is not finite.
    """
    return _first(values, TEST_ERROR, HOLDOUT_ERROR)


def _first(values: Mapping[str, float | None], *metrics: Metric) -> float | None:
    return next((value for metric in metrics if (value := values.get(metric.name)) is not None), None)
