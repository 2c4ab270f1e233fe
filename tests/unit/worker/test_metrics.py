"""The table of metrics names everything that a job reports, and describes each metric completely."""

from typing import Any, get_args

import pytest

from worker import metrics
from worker.events import Metrics
from worker.metrics import METRICS, MetricName, OutcomeMetric


def names_of(literal: Any) -> list[str]:
    """The strings of a Literal, or of a union of them, in their order."""
    return [name for part in get_args(literal) for name in ([part] if isinstance(part, str) else names_of(part))]


def test_the_table_has_one_row_for_every_name() -> None:
    assert sorted(METRICS) == sorted(names_of(MetricName))
    assert all(metric.name == name for name, metric in METRICS.items())


def test_the_metrics_that_jobs_are_judged_by_are_marked_and_come_in_the_same_order() -> None:
    outcomes = [metric for metric in METRICS.values() if metric.outcome]
    assert [metric.name for metric in outcomes] == names_of(OutcomeMetric)
    assert all(metric.better and metric.split for metric in outcomes)


@pytest.mark.parametrize(
    ("name", "unit", "better"),
    [
        ("test_error", "fraction", "lower"),
        ("holdout_loss", "nats", "lower"),
        ("images_per_s", "images/s", "higher"),
        ("learning_rate", "", None),
    ],
)
def test_a_metric_has_a_unit_and_a_direction(name: str, unit: str, better: str | None) -> None:
    assert (METRICS[name].unit, METRICS[name].better) == (unit, better)


def test_metrics_of_one_quantity_share_unit_format_and_direction() -> None:
    for quantity in {metric.quantity for metric in METRICS.values()}:
        shared = {(m.unit, m.format, m.better, m.from_zero) for m in METRICS.values() if m.quantity == quantity}
        assert len(shared) == 1, quantity


def test_titles_tell_metrics_apart() -> None:
    assert len({metric.title for metric in METRICS.values()}) == len(METRICS)


@pytest.mark.parametrize("dataset", [{}, {"train_limit": 80, "holdout": 16}])
def test_every_value_that_a_job_reports_is_in_the_table(attempt: Any, make_spec: Any, dataset: dict[str, int]) -> None:
    spec = make_spec(epochs=1, normalization={"type": "batch"}, telemetry={}, dataset=dataset)
    rows = [event for event in attempt(spec).events if isinstance(event, Metrics)]

    assert {row.kind for row in rows} == {"train", "eval", "telemetry"}
    for row in rows:
        for key in row.values:
            layer, _, name = key.rpartition("/")
            assert METRICS[name].kind == row.kind
            assert METRICS[name].per_layer == bool(layer)


@pytest.mark.parametrize("dataset", [{}, {"holdout": 16}, {"holdout": 16, "test_limit": 0}])
def test_the_default_outcome_is_reported_by_every_evaluation(
    attempt: Any, make_spec: Any, dataset: dict[str, int]
) -> None:
    record = attempt(make_spec(epochs=1, dataset={"train_limit": 80} | dataset))

    values = record.checkpoints[-1].metrics
    assert metrics.evaluation_error(values) == values[metrics.default_outcome(tested="test_limit" not in dataset)]


def test_the_best_epoch_is_chosen_on_the_holdout_where_there_is_one() -> None:
    values = {"test_error": 0.1, "holdout_error": 0.2}
    assert (metrics.evaluation_error(values), metrics.selection_error(values)) == (0.1, 0.2)
    assert metrics.selection_error({"test_error": 0.1}) == 0.1
    assert METRICS["test_loss"].selected_by == "holdout_loss"
    assert metrics.best_note("test_error", holdout=False) == "optimistic: chosen on the test set"
    assert metrics.best_note("test_error", holdout=True) == "chosen on the holdout"
    assert metrics.best_note("holdout_error", holdout=True) == "optimistic: chosen on the holdout"
    assert metrics.best_note("train_loss", holdout=True) is None
    assert metrics.best_note("of another version", holdout=True) is None


def test_each_split_that_is_evaluated_has_its_own_metrics() -> None:
    for split, (loss, error) in metrics.EVALUATIONS.items():
        assert {loss.split, error.split} == {split}
        assert (loss.quantity, error.quantity) == ("loss", "error")


def test_there_is_no_evaluation_error_within_an_epoch_or_when_it_is_not_finite() -> None:
    assert metrics.evaluation_error({}) is None
    assert metrics.evaluation_error({"test_error": None}) is None


def test_a_metric_of_the_model_has_no_layer() -> None:
    assert metrics.MEAN_GAP.of_layer("stem_norm") == "stem_norm/mean_gap"
    with pytest.raises(AssertionError, match="whole model"):
        metrics.TEST_ERROR.of_layer("stem_norm")
