"""A report on the cluster is read as it was stored, or treated as missing."""

from typing import Any

import pytest

from service.cluster_report import ClusterReport, NextUp, NodeReport, RayReport, SlotsReport, WorkerReport

REPORT = ClusterReport(
    ray=RayReport(status="connected", address="127.0.0.1:6379"),
    slots=SlotsReport(total=2, busy=1, free=1),
    nodes=[NodeReport(id="n1", address="10.0.0.1", cpus=2.0)],
    workers=[WorkerReport(id="w1", node="n1", pid=41, device="cpu", state="busy", attempt="attempt_1", job="job_1")],
    next_up=NextUp(job="job_2", num_workers=2),
)


def test_what_is_stored_reads_back() -> None:
    assert ClusterReport.read(REPORT.model_dump(mode="json")) == REPORT


def test_what_another_version_adds_is_passed_over() -> None:
    assert ClusterReport.read(REPORT.model_dump(mode="json") | {"time": "2026-01-01T00:00:00Z"}) == REPORT


@pytest.mark.parametrize("stored", [None, {}, {"ray": None}, {"ray": {"status": "connected"}, "nodes": [1]}])
def test_what_is_not_a_report_counts_as_none(stored: Any) -> None:
    assert ClusterReport.read(stored) is None
