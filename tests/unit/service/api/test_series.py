"""Metrics downsampled and smoothed for a chart: fewer rows, the same peaks, averages of all values."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from service.api.routes.metrics import downsampled
from service.api.series import FEWEST_POINTS, MOST_POINTS, POINTS_TOGETHER, downsample, moving_average, points_each
from service.store.tables import Metric

VALUES = st.none() | st.floats(-1e6, 1e6)


def rows(kind: str, losses: list[tuple[float | None, float | None]], first_id: int) -> list[Metric]:
    return [
        Metric(
            id=first_id + step,
            kind=kind,
            epoch=1,
            step=step,
            time=datetime.now(UTC),
            values={"loss": loss, "error": error}
            if loss is not None
            else {"loss": None, "error": error, "diverged": True},
            superseded=False,
            attempt_id="attempt_1",
        )
        for step, (loss, error) in enumerate(losses)
    ]


SERIES = st.lists(st.tuples(VALUES, VALUES), max_size=120)


@given(train=SERIES, evaluation=SERIES, max_points=st.integers(2, 60))
def test_what_is_kept_is_few_and_in_order_with_the_ends_of_each_kind(
    train: list[tuple[float | None, float | None]],
    evaluation: list[tuple[float | None, float | None]],
    max_points: int,
) -> None:
    whole = sorted(rows("train", train, 0) + rows("eval", evaluation, 1000), key=lambda row: (row.step, row.id))
    kept = downsampled(whole, max_points)
    assert kept == [row for row in whole if row in kept]
    for kind, series in (("train", train), ("eval", evaluation)):
        steps = [row.step for row in kept if row.kind == kind]
        assert len(steps) <= max_points
        if len(series) <= max_points:
            assert steps == list(range(len(series)))
        else:
            assert {0, len(series) - 1} <= set(steps)


@given(SERIES, st.integers(6, 60))
def test_the_least_and_the_greatest_of_every_metric_stay(
    series: list[tuple[float | None, float | None]], max_points: int
) -> None:
    whole = rows("train", series, 0)
    kept = downsampled(whole, max_points)
    for name in ("loss", "error"):
        before = [row.values[name] for row in whole if row.values[name] is not None]
        after = [row.values[name] for row in kept if row.values[name] is not None]
        if before:
            assert (min(after), max(after)) == (min(before), max(before))


def test_telemetry_is_downsampled_evenly() -> None:
    whole = rows("telemetry", [(n / 10, 1 - n / 10) for n in range(100)], 0)
    assert [row.step for row in downsampled(whole, 10)] == list(range(0, 100, 11))


CURVE = st.lists(VALUES, max_size=300)


@given(CURVE, st.integers(2, 60))
def test_a_curve_keeps_its_ends_and_its_peaks(values: list[float | None], max_points: int) -> None:
    kept = downsample([values], max_points)
    assert kept == sorted(set(kept))
    assert len(kept) <= max_points
    if len(values) <= max_points:
        assert kept == list(range(len(values)))
        return
    assert {0, len(values) - 1} <= set(kept)
    finite = [value for value in values if value is not None]
    if max_points >= 4 and finite:
        left = [values[index] for index in kept if values[index] is not None]
        assert (min(left), max(left)) == (min(finite), max(finite))  # type: ignore[type-var]


def test_a_spike_of_one_step_stays_however_few_points_are_left() -> None:
    for at in (1, 500, 998):
        values = [0.1] * 1000
        values[at] = 0.9
        assert at in downsample([values], 4)


def test_points_are_shared_by_the_curves() -> None:
    assert points_each(1) == MOST_POINTS
    assert points_each(500) == FEWEST_POINTS
    assert all(points_each(n) * n <= POINTS_TOGETHER for n in range(8, 400))
    assert points_each(200) == 80


@given(CURVE, st.floats(0, 0.99))
def test_a_moving_average_stays_within_what_it_averages(values: list[float | None], weight: float) -> None:
    averages = moving_average(values, weight)
    assert [value is None for value in averages] == [value is None for value in values]
    finite = [value for value in values if value is not None]
    for n, average in enumerate(value for value in averages if value is not None):
        slack = 1e-6 * max(1.0, *(abs(value) for value in finite))
        assert min(finite[: n + 1]) - slack <= average <= max(finite[: n + 1]) + slack


def test_a_moving_average_is_not_drawn_to_its_beginning() -> None:
    assert moving_average([1.0, 1.0, 1.0], 0.9) == [1.0, 1.0, 1.0]
    assert moving_average([0.0, None, 1.0], 0.5) == [0.0, None, 2 / 3]


def test_rows_without_a_value_are_downsampled_too() -> None:
    whole = [Metric(id=n, kind="train", epoch=1, step=n, time=datetime.now(UTC), values={}) for n in range(10)]
    assert [row.step for row in downsampled(whole, 4)] == [0, 3, 6, 9]
