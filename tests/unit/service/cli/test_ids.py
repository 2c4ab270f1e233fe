"""Ids on the command line: whole, by their beginning or end, and completed by a shell."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.cli.exits import Exit
from service.client import Client
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, StandIn, a_job

GRID = {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [2]}
CUT = len("job_") + 4
"""The ids of jobs that are submitted within days begin with the same characters."""


@pytest.fixture
def pair(api: str) -> tuple[str, str, str]:
    """The ids of a new experiment and of its two jobs, which begin alike."""
    with Client(api) as client:
        experiment = client.experiments.submit({"name": "pair", "grid": GRID})["id"]
        first, second = [job["id"] for job in client.jobs(experiment=experiment)]
    assert first[:CUT] == second[:CUT]
    return experiment, first, second


class TestPartsOfIds:
    @pytest.mark.parametrize("part", [slice(-12, None), slice(None, -1), slice(4, -1), slice(4, None)])
    def test_an_unambiguous_beginning_or_end_names_a_job(
        self, lab: Run, pair: tuple[str, str, str], part: slice
    ) -> None:
        job = pair[1]
        assert lab("show", job[part], "--json").json["id"] == job
        assert lab("edit", job[part], "--priority", "2", "--json").json["id"] == job
        assert lab("logs", job[part]).code == Exit.OK
        assert lab("checkpoints", job[part]).out == "No checkpoints yet.\n"

    def test_and_an_experiment_in_every_command_that_takes_one(self, lab: Run, pair: tuple[str, str, str]) -> None:
        experiment = pair[0]
        part = experiment[-12:]
        assert lab("experiment", "show", part, "--json").json["id"] == experiment
        assert {job["id"] for job in lab("jobs", "--experiment", part, "--json").json} == set(pair[1:])
        assert lab("storage", "--experiment", part).code == Exit.OK
        assert lab("results", part).code == Exit.OK
        assert lab("experiment", "cancel", part).out.startswith(experiment)
        assert lab("jobs", "--experiment", "last", "--json").json[0]["experiment"] == experiment

    def test_a_checkpoint_of_a_job_too(self, lab: Run, pair: tuple[str, str, str]) -> None:
        job = pair[1]
        for command in ("download", "evaluate"):
            for reference in (job[-12:], f"{job[-12:]}/latest"):
                ended = lab(command, reference)
                assert (ended.code, job in ended.err) == (Exit.REFUSED, True), "the job has no checkpoint yet"

    def test_what_is_deleted_may_be_named_by_a_part_too(self, lab: Run, pair: tuple[str, str, str]) -> None:
        experiment, first, second = pair
        lab("cancel", first, second)
        assert lab("delete", first[-12:]).out == f"{first}  deleted\n"
        assert lab("experiment", "delete", experiment[-12:]).out == f"{experiment}  deleted\n"

    def test_a_part_of_several_is_an_error_that_lists_them(self, lab: Run, pair: tuple[str, str, str]) -> None:
        _, first, second = pair
        ended = lab("pause", first[:CUT])
        assert ended.code == Exit.INVALID
        lines = ended.err.splitlines()
        assert lines[0] == f"normlab: {first[:CUT]!r} is a part of several ids: give more of one"
        assert lines[1:3] == [
            f"  {first}  pair: group (8), batch size 2, seed 0",
            f"  {second}  pair: batch, batch size 2, seed 0",
        ]
        assert lab("show", first, "--json").json["status"] == "queued"

    def test_a_part_of_none_and_one_that_is_too_short_say_what_is_accepted(
        self, lab: Run, pair: tuple[str, str, str]
    ) -> None:
        accepted = "give all of the id, or at least 4 characters of its beginning or end after `job_`."
        ended = lab("show", "zzzzzz")
        assert (ended.code, ended.out) == (Exit.REFUSED, "")
        assert ended.err == f"normlab: there is no job 'zzzzzz': {accepted} `normlab jobs` lists them\n"
        for short in (pair[1][-3:], "job_01k", "j"):
            ended = lab("show", short)
            assert ended.code == Exit.INVALID
            assert ended.err == f"normlab: the id is {short!r}: {accepted} `normlab jobs` lists them\n"

    def test_a_wildcard_is_a_character_like_any_other(self, lab: Run, pair: tuple[str, str, str]) -> None:
        assert "there is no job '%%%%'" in lab("show", "%%%%").err
        assert "there is no job '____'" in lab("show", "____").err

    def test_a_whole_id_selects_itself_although_another_begins_with_it(self, run: Run, service: StandIn) -> None:
        service.on("GET", "/v1/jobs", Answer({"data": [a_job(id="job_12"), a_job(id="job_1")], "next_cursor": None}))
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(id="job_1")))
        assert run("--url", service.url, "show", "job_1", "--json").json["id"] == "job_1"

    def test_a_whole_id_is_not_looked_up(self, run: Run, service: StandIn) -> None:
        id_ = "job_" + "0" * 26
        service.on("GET", f"/v1/jobs/{id_}", Answer(a_job(id=id_)))
        run("--url", service.url, "show", id_)
        assert [request.path for request in service.requests] == [f"/v1/jobs/{id_}"]


@pytest.fixture
def complete(tmp_path: Path) -> Callable[[str], list[str]]:
    """What bash completes a line to, in a process of its own as in a shell."""

    def complete(line: str, url: str = "http://127.0.0.1:9") -> list[str]:
        environment = os.environ | {
            "_NORMLAB_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "NORMLAB_URL": url,
            "NORMLAB_HOME": str(tmp_path),
        }
        script = "import sys; sys.argv = ['normlab']; from service.cli import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.stderr == ""
        return ended.stdout.split()

    return complete


class TestCompletion:
    def test_of_commands(self, complete: Callable[..., list[str]]) -> None:
        assert complete("normlab ca") == ["cancel"]
        assert set(complete("normlab experiment s")) == {"submit", "show", "share", "shares"}

    def test_of_ids_by_their_beginning(
        self, complete: Callable[..., list[str]], api: str, pair: tuple[str, str, str]
    ) -> None:
        experiment, first, second = pair
        assert complete(f"normlab show {first[:-1]}", api) == [first]
        assert complete("normlab cancel ", api)[:2] == [first, second], "the newest come first"
        assert complete(f"normlab cancel {second} job_", api)[0] == first
        assert complete("normlab results ", api)[0] == experiment
        assert complete(f"normlab jobs --experiment {experiment[:-1]}", api) == [experiment]
        assert complete(f"normlab --url {api} show {first[:-1]}") == [first]

    def test_is_silent_without_a_service(self, complete: Callable[..., list[str]]) -> None:
        assert complete("normlab show ") == []
        assert complete("normlab show ", "nonsense") == []
