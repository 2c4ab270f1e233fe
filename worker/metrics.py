"""The metrics of a training job: what each is called, its unit, and whether a lower or a higher value is better.

This table is the only place that describes a metric. The training loop takes the names of what it reports from here,
the service the metrics that jobs are sorted, compared and judged by, and the API serves the table to its clients. The
module needs pydantic alone.
"""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

MetricKind = Literal["train", "eval", "telemetry"]
"""Rows of metrics: `train` several times an epoch, `eval` at the end of each, `telemetry` about its layers."""

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
]


class Metric(BaseModel):
    """One metric that a training job reports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: MetricName = Field(description="key of the value in a row of metrics; see `per_layer`")
    title: str = Field(description="human-readable name, in lower case as within a sentence")
    description: str = Field(description="definition, one sentence")
    kind: MetricKind = Field(description="kind of the rows that it is reported in")
    quantity: Quantity = Field(description="what is measured; metrics of one quantity can share an axis")
    unit: Literal["fraction", "nats", "images/s", "standard deviations", ""] = Field(
        description="unit of the reported value; empty: it has none"
    )
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
ACTIVATION_RMS = Metric(
    name="activation_rms",
    title="activation RMS",
    description="Root mean square of the input of the normalization layer.",
    kind="telemetry",
    quantity="activation_rms",
    unit="",
    format="decimal",
    per_layer=True,
)
GAIN_RMS = Metric(
    name="gain_rms",
    title="gain RMS",
    description="Root mean square of the learned scale of the normalization layer.",
    kind="telemetry",
    quantity="gain_rms",
    unit="",
    format="decimal",
    per_layer=True,
)
MEAN_GAP = Metric(
    name="mean_gap",
    title="mean gap",
    description="Distance of the mean of a batch from the running mean, in running standard deviations.",
    kind="telemetry",
    quantity="mean_gap",
    unit="standard deviations",
    format="decimal",
    per_layer=True,
)
VARIANCE_GAP = Metric(
    name="variance_gap",
    title="variance gap",
    description="Distance of the variance of a batch from the running variance, as |ln(batch / running)|.",
    kind="telemetry",
    quantity="variance_gap",
    unit="",
    format="decimal",
    per_layer=True,
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
    )
}
"""Every metric, by name, in display order."""


def default_outcome(*, holdout: bool) -> OutcomeMetric:
    """The metric that a job is judged by unless another is chosen: the error on the images that it evaluates on.

    Args:
        holdout: Whether the job holds out training images; it then evaluates on these instead of the test images.
    """
    return "holdout_error" if holdout else "test_error"


def evaluation_error(values: Mapping[str, float | None]) -> float | None:
    """The error among the metrics of an evaluation; None if there is none, or if it is not finite."""
    names = (HOLDOUT_ERROR.name, TEST_ERROR.name)
    return next((value for name in names if (value := values.get(name)) is not None), None)
