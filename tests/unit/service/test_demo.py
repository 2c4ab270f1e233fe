"""The demonstration: the right four jobs, an honest table, and no confusion of the synthetic set with CIFAR-10."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import SecretStr
from rich.console import Console

from service import demo
from service.cli.exits import Exit, Failed
from service.demo import Size, footnote, requests, run, table
from service.home import Home, Process, State
from service.jobs import JobRequest
from service.settings import Settings
from tests.unit.service.stand_in import Answer, Json, Request, StandIn, a_job, running, stream


def ended(request: Json, id_: str, error: float | None, status: str = "succeeded") -> Json:
    spec = JobRequest.model_validate(request).training.model_dump(mode="json")
    summary = {} if error is None else {"test_error": {"best": error, "best_step": 1, "last": error, "last_step": 1}}
    return a_job(id=id_, name=request["name"], spec=spec, status=status, summary=summary)


def shown(renderable: object) -> str:
    console = Console(width=120)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


@pytest.mark.parametrize("dataset", ["cifar10", "synthetic"])
def test_the_jobs_are_valid_and_differ_in_normalization_and_batch_size_alone(dataset: str) -> None:
    wanted = requests(dataset, Size())
    specs = [JobRequest.model_validate(request).training.model_dump() for request in wanted]
    cells = {(spec.pop("normalization")["type"], spec.pop("batch_size")) for spec in specs}
    assert cells == {("batch", 2), ("batch", 32), ("group", 2), ("group", 32)}
    assert all(spec == specs[0] for spec in specs)
    assert all(("synthetic" in request["name"]) == (dataset == "synthetic") for request in wanted)


def test_the_longest_jobs_go_first() -> None:
    assert [request["batch_size"] for request in requests("cifar10", Size())] == [2, 2, 32, 32]


def test_the_table_has_each_error_in_its_cell() -> None:
    errors = [0.511, 0.412, 0.333, None]
    jobs = [ended(*pair) for pair in zip(requests("cifar10", Size()), "abcd", errors, strict=True)]
    lines = shown(table(jobs[::-1])).splitlines()
    rows = {line.split()[1]: line.replace("│", " ").split()[1:] for line in lines if "Norm" in line}
    assert rows == {"BatchNorm": ["51.1", "%", "33.3", "%"], "GroupNorm": ["41.2", "%", "–"]}
    assert "n = 1" in lines[0]


def test_the_table_says_what_it_is_worth() -> None:
    assert "2,500 training and 1,000 test images of CIFAR-10" in footnote("cifar10", Size())
    assert "One seed proves nothing" in footnote("cifar10", Size())
    assert "says nothing about CIFAR-10" in footnote("synthetic", Size())


class TestRun:
    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[StandIn]:
        """A service that runs in HOME already."""
        with running() as service, Home(tmp_path) as home:
            home.write(State(Process.of(os.getpid()), service.url))
            service.on("POST", "/v1/jobs", self.submitted(service, "succeeded"))
            yield service

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(home=tmp_path, data_dir=tmp_path / "data")

    def submitted(self, service: StandIn, status: str) -> Any:
        numbers = iter(range(9))

        def submit(request: Request) -> Answer:
            job = ended(request.body, f"job_{next(numbers)}", 0.5, status)
            service.on("GET", f"/v1/jobs/{job['id']}", Answer(job))
            service.on("GET", f"/v1/jobs/{job['id']}/events", stream(("", "end", {"status": status})))
            service.on("POST", f"/v1/jobs/{job['id']}/cancel", Answer(job, 202))
            return Answer(job, 201)

        return submit

    def test_uses_the_service_that_runs_already(
        self, service: StandIn, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings, out: True)
        run(settings)
        out = capsys.readouterr().out
        assert "BatchNorm at 2: succeeded" in out
        assert "50.0 %" in out
        assert f"The service is at {service.url}" in out
        assert "synthetic" not in out

    def test_uses_a_token_that_may_write(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings, out: True)
        run(Settings(home=settings.home, api_tokens=SecretStr("reader:only-reads:read,me:may-write")))
        assert {request.headers["authorization"] for request in service.requests} == {"Bearer may-write"}

    def test_without_cifar10_says_so_and_labels_everything_synthetic(
        self, service: StandIn, settings: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # No network: whatever is to be fetched goes through a proxy that is not there.
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
        run(settings)
        out = capsys.readouterr().out
        assert "No CIFAR-10: " in out
        assert "Training on the synthetic set instead" in out
        names = [request.body["name"] for request in service.to("POST", "/v1/jobs")]
        assert len(names) == 4
        assert all("synthetic" in name for name in names)
        assert all("synthetic" in line for line in out.splitlines() if "Norm at" in line)
        assert "Test error, synthetic" in out

    def test_says_which_job_failed(self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "_fetch", lambda settings, out: True)
        service.on("POST", "/v1/jobs", self.submitted(service, "failed"))
        with pytest.raises(Failed, match="BatchNorm at 2 failed"):
            run(settings)

    def test_interrupted_cancels_what_it_submitted(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(demo, "_fetch", lambda settings, out: True)
        monkeypatch.setattr(demo, "to_the_end", interrupted)
        with pytest.raises(typer.Exit) as ended:
            run(settings)
        assert ended.value.exit_code == Exit.INTERRUPTED
        cancelled = {request.path for request in service.requests if request.path.endswith("/cancel")}
        assert cancelled == {f"/v1/jobs/job_{number}/cancel" for number in range(4)}

    def test_takes_sigterm_as_ctrl_c(
        self, service: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def terminate(*_: object) -> bool:
            os.kill(os.getpid(), 15)
            threading.Event().wait(20)
            return True

        monkeypatch.setattr(demo, "_fetch", terminate)
        with pytest.raises(typer.Exit):
            run(settings)
        assert service.requests == []
