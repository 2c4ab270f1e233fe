"""What the actor reports about a training process that has ended, without Ray."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from worker.data import datasets
from worker.events import Finished
from worker.process import actor
from worker.process.actor import TrainingProcessGone, TrainingWorker
from worker.process.messages import Configure


class Process:
    """Stands for a training process, which `end` ends."""

    def __init__(self, configuration: Configure, on_report: Any, on_end: Callable[[], None]) -> None:
        self.configuration, self._on_end = configuration, on_end
        self.device = "cuda:0" if configuration.gpu_share else "cpu"
        self.bfloat16, self.pid = True, 1
        self.gone = self.aborted = False
        self.ready = True

    def wait_ready(self) -> None:
        """Be ready at once."""

    def start(self, start: Any) -> None:
        """Train nothing."""

    def renew_lease(self) -> None:
        """Need no lease."""

    def check(self) -> None:
        if self.gone:
            raise TrainingProcessGone("the training process was ended by SIGABRT")

    def end(self, *, aborted: bool) -> None:
        self.gone, self.aborted = True, aborted
        self._on_end()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[TrainingWorker, Process]]:
    """Starts an attempt on rank 1 of some workers, each with a part of a GPU."""
    monkeypatch.setattr(actor, "TrainingProcess", Process)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(TrainingWorker, "_publish", lambda _, dataset: dataset)

    def run(gpus: float, num_workers: int) -> tuple[TrainingWorker, Process]:
        context = SimpleNamespace(get_assigned_resources=lambda: {"CPU": 1.0} | ({"GPU": gpus} if gpus else {}))
        monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
        worker = TrainingWorker(1, 30.0, 60.0)
        worker.prepare()
        process: Any = worker._process
        worker.start("one", {"num_workers": num_workers}, datasets.synthetic(), None, rank=1 if num_workers > 1 else 0)
        return worker, process

    return run


def test_a_worker_whose_process_is_not_warm_says_so(start: Any) -> None:
    worker, process = start(0, 1)
    assert (worker.describe().ready, worker.describe().device) == (True, "cpu")
    process.ready = False
    assert (worker.describe().ready, worker.describe().device) == (False, "")


@pytest.mark.parametrize("gpus", [0, 0.25, 1.0])
def test_a_process_is_told_its_part_of_a_gpu(start: Any, gpus: float) -> None:
    assert start(gpus, 1)[1].configuration.gpu_share == gpus


def test_a_process_that_nccl_ended_has_lost_the_other_workers(start: Any) -> None:
    worker, process = start(1.0, 2)
    process.end(aborted=True)

    [ended] = worker.poll("one", 0, 0).events
    assert isinstance(ended, Finished)
    assert ended.failure is not None
    assert (ended.failure.code, ended.failure.may_pass) == ("peer", True)
    assert ended.failure.message == (
        "rank 1 of 2 lost the other workers: its training process was ended by SIGABRT, as NCCL does when another "
        "worker does not answer"
    )


@pytest.mark.parametrize(("gpus", "num_workers", "aborted"), [(0, 2, True), (1.0, 1, True), (1.0, 2, False)])
def test_any_other_process_that_ended_is_lost(start: Any, gpus: float, num_workers: int, aborted: bool) -> None:
    worker, process = start(gpus, num_workers)
    process.end(aborted=aborted)

    with pytest.raises(TrainingProcessGone):
        worker.poll("one", 0, 0)
