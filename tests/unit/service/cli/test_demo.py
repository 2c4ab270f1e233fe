"""The demo: its experiment, its table, and a clear statement if it trains on the synthetic dataset."""

import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import SecretStr

from service.cli import demo
from service.cli.demo import Size, footnote, request, run
from service.cli.exits import Exit, Failed
from service.experiments.request import ExperimentRequest, expand
from service.local.home import Home, Process, State
from service.settings import Settings
from tests.unit.service.stand_in import Answer, Json, Request, StandIn, a_job, running, stream

CELL: Json = {"mean": 0.511, "interval": None, "n": 1, "counts": {"succeeded": 1}}
RESULTS: Json = {
    "headline": "There are no comparisons yet.",
    "metric": "test_error",
    "statistic": "final",
    "statistic_title": "after the last epoch",
    "stage": None,
    "tuning": None,
    "beside": [],
    "datasets": ["cifar10"],
    "rows": {"field": "normalization", "values": [{"label": "batch"}]},
    "columns": {"field": "batch_size", "values": [{"label": "2"}]},
    "cells": [CELL | {"row": "batch", "column": "2"}],
    "comparisons": [],
    "warnings": [],
}


@pytest.mark.parametrize("dataset", ["cifar10", "synthetic"])
def test_the_jobs_are_valid_and_differ_in_normalization_and_batch_size_alone(dataset: str) -> None:
    experiment = ExperimentRequest.model_validate(request(dataset, Size())).resolved()
    planned = [job.request for job in expand(experiment)]
    specs = [job.training.model_dump() for job in planned]
    cells = Counter((spec.pop("normalization")["type"], spec.pop("batch_size")) for spec in specs)
    assert cells == dict.fromkeys([("batch", 2), ("batch", 32), ("group", 2), ("group", 32)], 3)
    assert {spec.pop("seed") for spec in specs} == {0, 1, 2}
    assert all(spec == specs[0] for spec in specs)
    assert all(("synthetic" in job.name) == (dataset == "synthetic") for job in planned)
    assert (experiment.rows, experiment.columns) == ("normalization", "batch_size")


def test_the_longest_jobs_of_a_seed_go_first() -> None:
    planned = expand(ExperimentRequest.model_validate(request("cifar10", Size())).resolved())
    assert [job.request.batch_size for job in planned] == [2, 2, 32, 32] * 3


def test_the_table_says_what_it_is_worth() -> None:
    assert "1,000 training and 1,000 test images of CIFAR-10" in footnote("cifar10", Size())
    assert "say nothing about CIFAR-10" in footnote("synthetic", Size())


class TestRun:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[StandIn]:
        """A service that already runs in HOME."""
        with running() as service, Home(tmp_path) as home:
            home.write(State(Process.of(os.getpid()), service.url))
            self.ends(service, "succeeded")
            yield service

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(home=tmp_path, data_dir=tmp_path / "data")

    def ends(self, service: StandIn, status: str) -> None:
        """Every job of an experiment ends at once, with the same outcome."""

        def submit(submitted: Request) -> Answer:
            planned = expand(ExperimentRequest.model_validate(submitted.body).resolved())
            jobs = [
                a_job(id=f"job_{number}", name=job.request.name, status=status) for number, job in enumerate(planned)
            ]
            for job in jobs:
                service.on("GET", f"/v1/jobs/{job['id']}", Answer(job))
                service.on("GET", f"/v1/jobs/{job['id']}/events", stream(("", "end", {"status": status})))
            service.on("GET", "/v1/jobs", Answer({"data": jobs, "next_cursor": None}))
            return Answer({"id": "experiment_1"}, 201)

        service.on("POST", "/v1/bundles/example", Answer({"id": "experiment_0"}, 201))
        service.on("POST", "/v1/experiments", submit)
        service.on("POST", "/v1/experiments/experiment_1/cancel", Answer({"id": "experiment_1"}, 202))
        service.on("GET", "/v1/experiments/experiment_1/results", Answer(RESULTS))

    def test_uses_the_service_that_runs_already(
        self, service: StandIn, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings: True)
        run(settings)
        out = capsys.readouterr().out
        assert "batch size 2, batch, seed 0: succeeded" in out
        assert "51.10 (1)" in out
        assert f"A finished study: {service.url}/experiments/experiment_0" in out
        assert f"Dashboard: {service.url}/experiments/experiment_1" in out
        assert "Next: `normlab experiment submit paper-batch-size --budget 0.01 --watch`" in out
        assert "synthetic" not in out

    def test_uses_a_token_that_may_write(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings: True)
        run(Settings(home=settings.home, api_tokens=SecretStr("reader:only-reads:read,me:may-write")))
        assert {request.headers["authorization"] for request in service.requests} == {"Bearer may-write"}

    def test_without_cifar10_says_so_and_labels_everything_synthetic(
        self, service: StandIn, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Downloads fail as without a network: they use a proxy that does not exist.
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        run(settings)
        out = capsys.readouterr().out
        assert "No CIFAR-10: " in out
        assert "Training on the synthetic dataset instead" in out
        (submitted,) = service.to("POST", "/v1/experiments")
        assert "synthetic" in submitted.body["name"]
        assert all("synthetic" in line for line in out.splitlines() if "seed 0: " in line)

    def test_says_which_job_failed(self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings: True)
        self.ends(service, "failed")
        with pytest.raises(Failed, match="batch size 2, batch, seed 0 failed"):
            run(settings)

    def test_interrupted_cancels_what_it_submitted(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "_fetch", lambda settings: True)
        monkeypatch.setattr(demo, "to_the_end", interrupted)
        with pytest.raises(typer.Exit) as ended:
            run(settings)
        assert ended.value.exit_code == Exit.INTERRUPTED
        assert len(service.to("POST", "/v1/experiments/experiment_1/cancel")) == 1

    def test_takes_sigterm_as_ctrl_c(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def terminate(*_: object) -> bool:
            os.kill(os.getpid(), 15)
            threading.Event().wait(120)
            return True

        monkeypatch.setattr(demo, "_fetch", terminate)
        with pytest.raises(typer.Exit):
            run(settings)
        assert service.requests == []
