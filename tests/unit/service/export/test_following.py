"""An export receives exactly the final rows, also across restarts and lost attempts."""

import math
from collections.abc import Iterator

import pytest

from service.client import ApiError, Event
from service.export import Run, Selection, export
from tests.unit.service.export.conftest import Follow, Lab
from tests.unit.service.store.acting import FINAL, row


class Kept:
    """A sink that keeps the last state of each run."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}

    def update(self, run: Run) -> None:
        self.runs[run.id] = run

    def steps(self, job: str) -> list[int]:
        return [point.step for point in self.runs[job].points if point.name == "test_error"]


@pytest.fixture
def kept() -> Kept:
    return Kept()


def exported(lab: Lab, kept: Kept, *jobs: str, **filters: object) -> list[str]:
    told: list[str] = []
    export(lab.client, Selection(jobs, filters), kept, follow=False, on_update=lambda run: told.append(run.id))
    return told


def test_all_jobs_the_oldest_first_or_those_that_are_chosen(lab: Lab, kept: Kept) -> None:
    first, second, third = lab.trained(), lab.submit(labels={"study": "paper"}), lab.submit()
    assert exported(lab, kept) == [first, second, third]
    assert exported(lab, kept, third, first) == [third, first]
    assert exported(lab, kept, label=["study:paper"]) == [second]
    assert (kept.steps(first), kept.steps(second)) == ([10, 20], [])


def test_a_missing_job_is_reported(lab: Lab, kept: Kept) -> None:
    with pytest.raises(ApiError, match="no job job_0"):
        exported(lab, kept, "job_0")


def test_of_a_job_that_runs_only_what_a_checkpoint_covers(lab: Lab, kept: Kept) -> None:
    job = lab.submit()
    worker = lab.train()
    lab.report(worker, 10)
    exported(lab, kept)
    assert kept.steps(job) == []
    lab.do(worker.checkpoint(10))
    lab.report(worker, 20)
    exported(lab, kept)
    assert kept.steps(job) == [10]
    lab.do(worker.finish())
    exported(lab, kept)
    assert kept.steps(job) == [10, 20]


def test_a_value_that_is_not_finite_is_not_a_number(lab: Lab, kept: Kept) -> None:
    job = lab.submit()
    worker = lab.train()
    lab.do(worker.report(row(3, kind="train", train_loss=float("inf"), learning_rate=0.1)))
    lab.do(worker.fail(FINAL))
    exported(lab, kept)
    points = {point.name: point.value for point in kept.runs[job].points}
    assert math.isnan(points.pop("train_loss"))
    assert points == {"learning_rate": 0.1}


def test_following_ends_with_the_jobs(lab: Lab, kept: Kept, follow: Follow) -> None:
    done, waiting = lab.trained(), lab.submit()
    following = follow(kept, done, waiting)
    following.until(lambda run: run.id == waiting)
    worker = lab.train()
    lab.report(worker, 10)
    lab.do(worker.checkpoint(10))
    following.until(lambda run: run.id == waiting and bool(run.points))
    lab.report(worker, 20)
    lab.do(worker.finish())
    following.end()
    assert kept.steps(waiting) == kept.steps(done) == [10, 20]


def test_jobs_that_have_ended_are_not_waited_for(lab: Lab, kept: Kept, follow: Follow) -> None:
    job = lab.trained()
    follow(kept).end()
    assert kept.steps(job) == [10, 20]


def test_a_superseded_row_never_appears(lab: Lab, kept: Kept, follow: Follow) -> None:
    job = lab.submit()
    following = follow(kept)
    first = lab.train()
    lab.report(first, 10)
    lab.do(first.checkpoint(10))
    lab.report(first, 20, error=0.9)
    lab.do(first.lose())
    following.until(lambda run: len(run.job["attempts"]) == 1 and run.job["status"] == "queued" and bool(run.points))
    second = lab.train(resumed_from_step=10)
    lab.report(second, 20, error=0.2)
    lab.do(second.finish())
    following.end()
    assert [point.value for point in kept.runs[job].points] == [0.1, 0.2]


def test_a_restart_of_the_api_loses_nothing(lab: Lab, kept: Kept, follow: Follow) -> None:
    job, second = lab.submit(), lab.submit()
    following = follow(kept)
    following.until(lambda run: run.id == second)
    worker = lab.train()
    lab.report(worker, 10)
    lab.do(worker.checkpoint(10))
    following.until(lambda run: bool(run.points))
    lab.stop()
    lab.report(worker, 20)
    lab.do(worker.finish())
    lab.start()
    following.until(lambda run: run.id == job and run.ended)
    other = lab.train()
    lab.report(other, 30)
    lab.do(other.finish())
    following.end()
    assert (kept.steps(job), kept.steps(second)) == ([10, 20], [30])


def test_jobs_that_an_experiment_gets_later_belong_to_it(lab: Lab, kept: Kept, follow: Follow) -> None:
    grid = {"batch_size": [2], "seed": [0]}
    request = {"name": "grows", "base": {"normalization": {"type": "group"}}, "grid": grid}
    experiment = lab.client.experiments.submit(request)["id"]
    alien = lab.submit()
    following = follow(kept, experiment=experiment)
    following.until(lambda run: run.job["status"] == "queued")
    lab.client.experiments.change(experiment, grid={"seed": [0, 1]})
    following.until(lambda run: run.job["spec"]["seed"] == 1)
    for _ in range(3):
        worker = lab.train()
        if worker.job != alien:
            lab.report(worker, 10)
        lab.do(worker.finish())
    following.end()
    assert alien not in kept.runs
    assert [kept.steps(job) for job in kept.runs] == [[10], [10]]


@pytest.mark.parametrize("chosen", [True, False])
def test_jobs_of_a_database_that_was_replaced_are_not_waited_for(
    lab: Lab, kept: Kept, monkeypatch: pytest.MonkeyPatch, chosen: bool
) -> None:
    done, gone = lab.trained(labels={"study": "old"}), lab.submit(labels={"study": "old"})

    def follow(**filters: object) -> Iterator[Event]:
        yield Event("", "open", {})
        lab.client.cancel(gone)
        lab.client.delete(gone)
        kept.runs.clear()
        yield Event("0", "reset", {"unknown": 9})
        raise AssertionError("the export waits for a job that no longer exists")

    monkeypatch.setattr(lab.client, "follow", follow)
    selection = Selection((done, gone)) if chosen else Selection((), {"label": ["study:old"]})
    export(lab.client, selection, kept, follow=True, on_update=lambda run: None)
    assert list(kept.runs) == [done], "it may have other rows now"


def test_what_is_deleted_meanwhile_is_let_go(lab: Lab) -> None:
    first, second = lab.trained(), lab.trained()

    class Deleting(Kept):
        def update(self, run: Run) -> None:
            super().update(run)
            lab.client.delete(second)

    deleting = Deleting()
    assert exported(lab, deleting) == [first]
