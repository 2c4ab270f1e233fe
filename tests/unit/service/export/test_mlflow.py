"""Exports are read back through MLflow, from its SQLite store and, by `make test-mlflow`, from its server."""

import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from mlflow.entities import Run as MLflowRun
    from mlflow.tracking import MlflowClient

from service.export import ExportError, Selection, export
from service.export.mlflow import CHECKPOINT, JOB_ID, MLflowSink
from service.local.private_ray import free_port
from tests.unit.service.conftest import Run as Command
from tests.unit.service.export.conftest import Follow, Lab
from tests.unit.service.export.test_tensorboard import without
from tests.unit.service.store.acting import FINAL, row

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow.*")  # raised by MLflow, for its SQLite store

ROOT = Path(__file__).parents[4]  # each test runs in a separate folder
MLFLOW = Path(os.environ.get("NORMLAB_TEST_MLFLOW", ROOT / ".venv-mlflow/bin/mlflow"))
"""The command of a complete MLflow, in a separate environment, because it needs other versions than the lock."""


@pytest.fixture(scope="session")
def sqlite_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an empty MLflow database, which tests copy."""
    path = tmp_path_factory.mktemp("mlflow") / "template.db"
    with redirect_stderr(io.StringIO()):
        MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server."""
    if not MLFLOW.exists():
        # This test was requested explicitly, so skipping it would hide that nothing was tested.
        pytest.fail(f"{MLFLOW} does not exist: `make test-mlflow` installs MLflow's server there", pytrace=False)
    home = tmp_path_factory.mktemp("server")
    port = free_port()
    command = [str(MLFLOW.absolute()), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{home}/mlflow.db",
        "--artifacts-destination",
        str(home / "artifacts"),
    ]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "HOME": str(home)}
    with subprocess.Popen(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            said = b"".join(itertools.takewhile(lambda line: b"startup complete" not in bytes(line), process.stdout))
            assert process.poll() is None, said.decode()
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.fixture(params=["sqlite", pytest.param("server", marks=pytest.mark.mlflow)])
def uri(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking URI."""
    monkeypatch.chdir(tmp_path)
    if request.param == "server":
        return str(request.getfixturevalue("server"))
    return f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_store'), tmp_path / 'mlflow.db')}"


class Reader:
    """MLflow's client, for one experiment."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.client = MlflowClient(uri)
        self.experiment = experiment

    def runs(self) -> list[MLflowRun]:
        """Return the runs of the experiment, oldest first."""
        found = self.client.get_experiment_by_name(self.experiment)
        return list(self.client.search_runs([found.experiment_id], order_by=["attributes.start_time"])) if found else []

    def run(self) -> MLflowRun:
        """Return the only run."""
        [run] = self.runs()
        return run

    def history(self, metric: str = "test_error") -> list[tuple[int, float]]:
        """Return step and value of each point of a metric of the only run."""
        points = self.client.get_metric_history(self.run().info.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def artifacts(self, folder: str | None = None) -> list[str]:
        """Return the files of the only run."""
        return [file.path for file in self.client.list_artifacts(self.run().info.run_id, folder)]


@pytest.fixture
def reader(uri: str, request: pytest.FixtureRequest) -> Reader:
    return Reader(uri, request.node.name)


def exported(lab: Lab, uri: str, reader: Reader, *, checkpoints: bool = False) -> None:
    """Export all jobs, in a new session."""
    sink = MLflowSink(lab.client, uri, reader.experiment, checkpoints=checkpoints)
    export(lab.client, Selection(), sink, follow=False, on_update=lambda run: None)


def test_a_job_is_a_run_with_its_parameters_metrics_and_tags(lab: Lab, uri: str, reader: Reader) -> None:
    job = lab.trained(name="gn at 2", labels={"study": "paper"}, optimizer={"type": "sgd", "learning_rate": 0.05})
    exported(lab, uri, reader)
    run = reader.run()
    assert (run.info.run_name, run.info.status) == ("gn at 2", "FINISHED")
    shown = lab.client.job(job)
    assert run.info.start_time == pytest.approx(in_ms(shown["started_at"]), abs=1)
    assert run.info.end_time == pytest.approx(in_ms(shown["finished_at"]), abs=1)
    assert run.data.params["optimizer.learning_rate"] == "0.05"
    assert run.data.params["normalization.num_groups"] == "8"
    assert run.data.params["deterministic"] == "false"
    assert run.data.tags.items() >= {
        (JOB_ID, job),
        ("normlab.status", "succeeded"),
        ("normlab.attempt", "1"),
        ("normlab.label.study", "paper"),
        ("normlab.url", f"{lab.url}/v1/jobs/{job}"),
    }
    assert reader.history() == [(10, 0.1), (20, 0.05)]
    times = [point.timestamp for point in reader.client.get_metric_history(run.info.run_id, "test_error")]
    assert times == [pytest.approx(in_ms(row["time"]), abs=1) for row in lab.client.metrics(job)]


def in_ms(time: str) -> float:
    from datetime import datetime

    return 1000 * datetime.fromisoformat(time).timestamp()


def test_the_spec_is_an_artifact(lab: Lab, uri: str, reader: Reader, tmp_path: Path) -> None:
    job = lab.trained()
    exported(lab, uri, reader)
    assert reader.artifacts() == ["spec.json"]
    file = reader.client.download_artifacts(reader.run().info.run_id, "spec.json", str(tmp_path))
    assert json.loads(Path(file).read_text()) == lab.client.job(job)["spec"]


def test_a_second_export_updates_the_same_run_and_duplicates_nothing(lab: Lab, uri: str, reader: Reader) -> None:
    lab.submit()
    worker = lab.train()
    lab.report(worker, 10)
    lab.do(worker.checkpoint(10))
    exported(lab, uri, reader)
    before = reader.run()
    assert (before.info.status, reader.history()) == ("RUNNING", [(10, 0.1)])
    lab.report(worker, 20)
    lab.do(worker.finish())
    for _ in range(2):
        exported(lab, uri, reader)
    after = reader.run()
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert reader.history() == [(10, 0.1), (20, 0.05)]


@pytest.mark.parametrize(("end", "status"), [("fail", "FAILED"), ("cancel", "KILLED"), ("wait", "SCHEDULED")])
def test_a_run_ends_as_its_job_does(lab: Lab, uri: str, reader: Reader, end: str, status: str) -> None:
    job = lab.submit()
    if end == "fail":
        worker = lab.train()
        lab.do(worker.report(row(3, kind="train", train_loss=float("nan"))))
        lab.do(worker.fail(FINAL))
    elif end == "cancel":
        lab.client.cancel(job)
    for _ in range(2):
        exported(lab, uri, reader)
    run = reader.run()
    assert run.info.status == status
    if end == "fail":
        assert run.data.tags["normlab.error"] == FINAL.message
        [(step, value)] = reader.history("train_loss")
        assert (step, math.isnan(value)) == (3, True)


def test_what_no_longer_counts_makes_room_for_what_does(lab: Lab, uri: str, reader: Reader) -> None:
    lab.submit()
    first = lab.train()
    lab.report(first, 10, 20, error=0.9)
    lab.do(first.checkpoint(20))
    exported(lab, uri, reader)
    lab.do(first.lose())
    # The only checkpoint of the job turned out to be damaged.
    second = lab.train(resumed_from_step=0)
    lab.report(second, 10, 20, error=0.3)
    lab.do(second.finish())
    exported(lab, uri, reader)
    assert reader.history() == [(10, 0.3), (20, 0.3)]


def test_live_through_a_loss_and_a_restart_of_the_api(lab: Lab, follow: Follow, uri: str, reader: Reader) -> None:
    lab.submit()
    following = follow(MLflowSink(lab.client, uri, reader.experiment, checkpoints=False))
    first = lab.train()
    lab.report(first, 10)
    lab.do(first.checkpoint(10))
    following.until(lambda run: bool(run.points))
    assert reader.history() == [(10, 0.1)]
    lab.stop()
    lab.report(first, 20, error=0.9)
    lab.do(first.lose())
    second = lab.train(resumed_from_step=10)
    lab.start()
    lab.report(second, 20, error=0.2)
    lab.do(second.finish())
    following.end()
    assert reader.history() == [(10, 0.1), (20, 0.2)]
    assert (reader.run().info.status, reader.run().data.tags["normlab.attempt"]) == ("FINISHED", "2")


def test_the_best_checkpoint_is_stored_once(
    lab: Lab, uri: str, reader: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    job = lab.submit()
    worker = lab.train()
    best = lab.do(worker.checkpoint(10, test_error=0.1))
    lab.do(worker.checkpoint(20, test_error=0.2))
    fetched: list[str] = []

    def download(checkpoint: str, file: str, folder: Path) -> Path:
        fetched.append(f"{checkpoint}/{file}")
        (folder / file).write_bytes(b"weights")
        return folder / file

    monkeypatch.setattr(lab.client, "download", download)
    exported(lab, uri, reader, checkpoints=True)
    assert fetched == [], "another may become the best one"
    lab.do(worker.finish())
    for _ in range(2):
        exported(lab, uri, reader, checkpoints=True)
    assert fetched == [f"{best}/model.safetensors"]
    assert reader.artifacts("checkpoint") == ["checkpoint/model.safetensors"]
    assert reader.run().data.tags.items() >= {(CHECKPOINT, best), (JOB_ID, job)}


def test_more_points_than_a_request_takes(lab: Lab, uri: str, reader: Reader) -> None:
    lab.submit()
    worker = lab.train()
    rows = [worker.number(row(step, test_error=1 / step, test_loss=0.5)) for step in range(1, 602)]
    lab.do(worker.record(*rows))
    lab.do(worker.finish())
    exported(lab, uri, reader)
    assert [step for step, _ in reader.history()] == list(range(1, 602))


def test_the_command(lab: Lab, run: Command, uri: str, reader: Reader) -> None:
    job = lab.trained(name="mine")
    lab.trained(name="other")
    arguments = ("export", "mlflow", "--tracking-uri", uri, "--experiment-name", reader.experiment, job)
    ended = run("--url", lab.url, *arguments)
    assert (ended.code, ended.out) == (0, "1 job, 2 points\n")
    assert f"{job}  2 points  succeeded  mine" in ended.err
    assert reader.run().info.run_name == "mine"


def test_the_command_wants_to_know_where(lab: Lab, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    ended = run("--url", lab.url, "export", "mlflow")
    assert (ended.code, ended.err) == (
        2,
        "normlab: give --tracking-uri, as http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI\n",
    )


def test_an_unreachable_server_is_a_readable_error(lab: Lab, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url = f"http://127.0.0.1:{free_port()}"
    ended = run("--url", lab.url, "export", "mlflow", "--tracking-uri", url)
    assert ended.code == 1
    assert f"normlab: MLflow at {url} refused the request: API request to" in ended.err


def test_a_missing_mlflow_is_reported_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, lab: Lab
) -> None:
    without(monkeypatch, "mlflow")
    with pytest.raises(ExportError, match=r'pip install "normlab\[mlflow\]"'):
        MLflowSink(lab.client, "sqlite:///x", "x", checkpoints=False)


def test_the_telemetry_of_mlflow_is_disabled(lab: Lab, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, Any] = {}
    monkeypatch.setattr(os, "environ", environment)
    MLflowSink(lab.client, uri, "x", checkpoints=False)
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
