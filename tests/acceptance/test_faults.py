"""Each process is killed by SIGKILL: the job ends with the same result as an undisturbed one."""

import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.local.home import Process
from tests.integration.dispatcher.conftest import command_of, descendants

pytestmark = [pytest.mark.ray, pytest.mark.faults]

STUDY: dict[str, Any] = {
    "model": "resnet20",
    "precision": "float32",
    "normalization": {"type": "group", "num_groups": 8},
    "batch_size": 16,
    "epochs": 40,
    "dataset": {"name": "synthetic", "train_limit": 256, "test_limit": 100},
    "checkpoint": {"every_epochs": 2, "every_s": 1},
}


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Any]) -> Any:
    return start_service()


def test_the_api_the_dispatcher_and_the_worker_are_killed_and_the_weights_are_those_of_an_undisturbed_run(
    service: Any, tmp_path: Path
) -> None:
    undisturbed = service.client.submit(STUDY)["id"]
    assert service.client.wait(undisturbed)["status"] == "succeeded"

    job = service.client.submit(STUDY)["id"]
    service.wait_for_step(job, 20)
    # Measured: at Ray's default niceness of 15, a training beside the other processes is 3 % slower.
    niceness = os.getpriority(os.PRIO_PROCESS, service.worker_pid(job))
    assert niceness == os.getpriority(os.PRIO_PROCESS, 0)
    for process in ("api", "dispatcher"):
        service.kill(process)
        before = service.client.job(job)["progress"]["step"]
        service.wait_for_step(job, before + 8)
    os.kill(service.worker_pid(job), signal.SIGKILL)
    ended = service.client.wait(job)

    assert ended["status"] == "succeeded"
    assert [attempt["outcome"] for attempt in ended["attempts"]] == ["lost", "succeeded"]
    assert ended["attempts"][1]["resumed_from_step"] > 0
    rows = service.rows(job)
    assert set(rows.values()) == {1}
    assert rows == service.rows(undisturbed)
    epochs = [row["epoch"] for row in service.client.metrics(job, kind="eval")]
    assert epochs == list(range(1, STUDY["epochs"] + 1))
    assert service.weights(job) == service.weights(undisturbed)
    assert ended["progress"]["step"] == ended["progress"]["total_steps"] == service.checkpoint_step(job)
    downloaded = service.client.download((job, "latest"), "model.safetensors", tmp_path / "weights")
    assert hashlib.sha256(downloaded.read_bytes()).hexdigest() == service.weights(undisturbed)


@pytest.mark.parametrize("dies", ["its head", "an agent of its node"])
def test_when_ray_dies_what_ran_is_queued_again_and_reads_and_submissions_go_on(service: Any, dies: str) -> None:
    job = service.client.submit(STUDY | {"epochs": 6})["id"]
    service.wait_for_step(job, 20)
    head = service.supervisor.pids["ray"]
    # The node leaves the cluster when its agent ends; the head continues.
    agent = next(pid for pid in descendants(head) if command_of(pid).startswith(b"ray::DashboardAgent"))
    os.kill(head if dies == "its head" else agent, signal.SIGKILL)
    service.until(lambda: service.supervisor.pids.get("ray", head) != head, "another Ray")
    later = service.client.submit(STUDY | {"epochs": 1})["id"]
    assert service.client.job(later)["status"] == "queued"

    for submitted in (job, later):
        assert service.client.wait(submitted)["status"] == "succeeded"
    rows = service.rows(job)
    assert set(rows.values()) == {1}


@pytest.mark.parametrize("name", ["api", "dispatcher", "ray"])
def test_a_process_that_is_frozen_is_replaced(service: Any, name: str) -> None:
    job = service.client.submit(STUDY | {"epochs": 60})["id"]
    service.wait_for_step(job, 20)
    frozen = service.supervisor.pids[name]
    stopped = frozen
    if name == "ray":
        stopped = next(pid for pid in descendants(frozen) if b"gcs_server" in command_of(pid))
    os.kill(stopped, signal.SIGSTOP)
    service.until(lambda: service.supervisor.pids.get(name, frozen) != frozen, f"another {name}")
    assert not Process.of(stopped).alive

    ended = service.client.wait(job)
    assert ended["status"] == "succeeded"
    if name != "ray":
        assert len(ended["attempts"]) == 1, "the training continued meanwhile"
    rows = service.rows(job)
    assert set(rows.values()) == {1}
