"""A row of a bundle that this service would not have written is refused, before it is stored."""

from typing import Any

import pytest
from pydantic import ValidationError

from service.experiments.bundle.lines import AttemptLine, EventLine, ExperimentFile, Line, MetricLine
from tests.unit.service.experiments.test_bundle import EXPERIMENT, NOW

ATTEMPT = {
    "id": "attempt_1",
    "job_id": "job_1",
    "number": 1,
    "workers": [{"worker": "a", "node": "b"}],
    "device": "cpu",
    "precision": "float32",
    "versions": {"torch": "2.13.0"},
    "last_seq": 3,
    "resumed_from_step": 0,
    "started_at": NOW,
    "ended_at": NOW,
    "outcome": "succeeded",
    "reason": None,
}
METRIC = {
    "job_id": "job_1",
    "attempt_id": "attempt_1",
    "seq": 1,
    "kind": "eval",
    "epoch": 1,
    "step": 10,
    "time": NOW,
    "values": {"test_error": 0.5, "layers.0.norm/activation_rms": 1.0, "test_loss": None},
    "superseded": False,
}
STARTED = {
    "device": "cpu",
    "precision": "float32",
    "parameters": 10,
    "steps_per_epoch": 5,
    "total_steps": 50,
    "resumed_from_step": 0,
    "versions": {},
}
EVENT = {
    "job_id": "job_1",
    "attempt_id": None,
    "seq": None,
    "type": "status",
    "time": NOW,
    "data": {"status": "queued", "reason": None},
}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (AttemptLine, ATTEMPT),
        (
            AttemptLine,
            ATTEMPT | {"cpu_s": 1.5, "peak_memory_bytes": 2**33, "gpu_utilization": 0.5},
        ),
        (MetricLine, METRIC),
        (EventLine, EVENT),
        (EventLine, EVENT | {"type": "started", "data": STARTED}),
        (EventLine, EVENT | {"type": "log", "data": {"level": "info", "message": "hello"}}),
        (ExperimentFile, EXPERIMENT),
    ],
)
def test_what_the_service_writes_is_read(kind: type[Line], row: dict[str, Any]) -> None:
    read = kind.model_validate(row)
    assert kind.model_validate_json(read.model_dump_json()) == read


@pytest.mark.parametrize(
    ("kind", "row", "changed"),
    [
        (AttemptLine, ATTEMPT, {"workers": []}),
        (AttemptLine, ATTEMPT, {"workers": [{"worker": "a"}]}),
        (AttemptLine, ATTEMPT, {"workers": ["a"]}),
        (AttemptLine, ATTEMPT, {"outcome": "won"}),
        (AttemptLine, ATTEMPT, {"cpu_s": -1.0}),
        (AttemptLine, ATTEMPT, {"cpu_s": float("inf")}),
        (AttemptLine, ATTEMPT, {"peak_memory_bytes": 2**63}),
        (AttemptLine, ATTEMPT, {"precision": "float8"}),
        (AttemptLine, ATTEMPT, {"versions": {"torch": 2}}),
        (AttemptLine, ATTEMPT, {"started_at": "0001-01-01T00:00:00Z"}),
        (MetricLine, METRIC, {"values": {"test_error": float("inf")}}),
        (MetricLine, METRIC, {"values": {"step": 1.0}}),
        (MetricLine, METRIC, {"values": {"created_at": 1.0}}),
        (MetricLine, METRIC, {"values": {"activation_rms": 1.0}}),
        (MetricLine, METRIC, {"values": {"layer/test_error": 1.0}}),
        (MetricLine, METRIC, {"values": {"x" * 300 + "/activation_rms": 1.0}}),
        (MetricLine, METRIC, {"kind": "best"}),
        (MetricLine, METRIC, {"step": 2**40}),
        (EventLine, EVENT, {"data": {"reason": None}}),
        (EventLine, EVENT, {"data": {"status": "won", "reason": None}}),
        (EventLine, EVENT, {"type": "log", "data": {"level": "loud", "message": "hello"}}),
        (EventLine, EVENT, {"type": "started", "data": {}}),
        (EventLine, EVENT, {"type": "log", "data": {"message": "hello", "time": "now"}}),
        (EventLine, EVENT, {"seq": -1}),
        (ExperimentFile, EXPERIMENT, {"request": {}}),
        (ExperimentFile, EXPERIMENT, {"request": {"grid": {"batch_size": [1]}, "base": {"colour": "red"}}}),
        (ExperimentFile, EXPERIMENT, {"request": {"grid": {"seed": list(range(1000)), "epochs": [1, 2]}}}),
        (ExperimentFile, EXPERIMENT, {"priority": 10**30}),
        (ExperimentFile, EXPERIMENT, {"name": "x" * 201}),
    ],
)
def test_anything_else_is_refused(kind: type[Line], row: dict[str, Any], changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(row | changed)
