"""Events read back from JSON by their type, and their times have a time zone."""

import math
from datetime import datetime, timedelta

import pytest
from pydantic import ValidationError

from worker.events import (
    EVENT,
    CheckpointTaken,
    Event,
    Failure,
    File,
    Finished,
    Log,
    Metrics,
    Progress,
    Started,
    Usage,
)

STARTED = Started(
    device="cpu",
    precision="float32",
    parameters=1,
    steps_per_epoch=2,
    total_steps=4,
    resumed_from_step=0,
    versions={"torch": "2"},
)
FAILURE = Failure(code="diverged", message="the loss is nan at step 3", step=3, may_pass=False)
EVERY: list[Event] = [
    STARTED,
    Progress(epoch=1, step=1, images_per_s=10.5, usage=Usage(cpu_s=1.5, peak_memory_bytes=2**33)),
    Metrics(seq=3, kind="train", epoch=1, step=2, values={"train_loss": 0.25}),
    CheckpointTaken(epoch=1, step=2, metrics={}, files={"state.pt": File(size=1, sha256="0" * 64)}),
    Log(level="warning", message="slow"),
    Finished(outcome="failed", failure=FAILURE),
    Finished(outcome="paused"),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: f"{event.type} {getattr(event, 'outcome', '')}")
def test_an_event_reads_back_as_it_was_written(event: Event) -> None:
    assert EVENT.validate_json(event.model_dump_json()) == event
    assert EVENT.validate_python(event.model_dump()) == event


def test_a_time_is_utc_and_one_without_a_zone_is_refused() -> None:
    assert STARTED.time.utcoffset() == timedelta(0)
    with pytest.raises(ValidationError, match="timezone"):
        Log(message="when?", time=datetime(2026, 1, 1))


def test_a_loss_that_is_not_finite_can_be_reported() -> None:
    values = Metrics(kind="train", epoch=1, step=1, values={"train_loss": math.inf, "train_error": math.nan}).values
    assert math.isinf(values["train_loss"])
    assert math.isnan(values["train_error"])


@pytest.mark.parametrize(
    "event",
    [
        {"type": "telepathy"},
        {"message": "without a type"},
        {"type": "log", "message": "x", "colour": "red"},
        {"type": "log", "message": "x", "level": "loud"},
        {"type": "log", "message": "x", "seq": -1},
        {"type": "finished", "outcome": "failed"},
        {"type": "finished", "outcome": "succeeded", "failure": FAILURE.model_dump()},
        {"type": "finished", "outcome": "lost"},
        {"type": "finished", "outcome": "succeeded", "usage": {"cpu_s": -1.0, "peak_memory_bytes": 1}},
        {"type": "finished", "outcome": "succeeded", "usage": {"cpu_s": math.inf, "peak_memory_bytes": 1}},
        {"type": "finished", "outcome": "succeeded", "usage": {"cpu_s": 1.0, "peak_memory_bytes": 2**63}},
        {"type": "finished", "outcome": "succeeded", "usage": {"cpu_s": 1.0}},
    ],
)
def test_an_invalid_event_is_refused(event: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate_python(event)
