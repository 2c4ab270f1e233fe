"""Metrics thinned out for a chart: fewer rows, the same peaks."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from service.api.metrics import thin_out
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
    kept = thin_out(whole, max_points)
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
    kept = thin_out(whole, max_points)
    for name in ("loss", "error"):
        before = [row.values[name] for row in whole if row.values[name] is not None]
        after = [row.values[name] for row in kept if row.values[name] is not None]
        if before:
            assert (min(after), max(after)) == (min(before), max(before))
