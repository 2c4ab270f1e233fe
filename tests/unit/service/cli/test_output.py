"""Printing: names are text and not markup, and output that cannot be written ends nothing that it tells of."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from service.cli import checkpoints
from service.cli.exits import Exit
from service.cli.output import Output, announce, complain, console, discard_pending, say
from service.cli.tables import jobs_table
from service.cli.watching import Bars, to_the_end
from service.client import Client
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, Json, StandIn, a_job, stream

HOSTILE = [
    "[/b]",
    "[bold red]loss[/bold red]",
    "[link=https://example.org]x[/link]",
    ":bomb:",
    "back\\",
    "\\[x]",
    "é–±😀",
]
"""Names that rich could take for markup or emoji, and characters that not every terminal has."""
EXPERIMENT: Json = {
    "id": "experiment_1",
    "name": "one",
    "title": "one",
    "status": "queued",
    "jobs": 4,
    "counts": {"queued": 4},
}

SUBMIT = ["submit", "--normalization", "group", "--batch-size", "2"]
ACTS = {
    "submit": SUBMIT,
    "submit as JSON": [*SUBMIT, "--json"],
    "cancel": ["cancel", "job_1", "job_2"],
    "retry": ["retry", "job_1", "job_2"],
    "extend a job": ["extend", "job_1", "--epochs", "60"],
    "delete": ["delete", "job_1", "job_2"],
    "submit an experiment": ["experiment", "submit", "labml"],
    "cancel experiments": ["experiment", "cancel", "experiment_1", "experiment_2"],
    "extend": ["experiment", "extend", "experiment_1", "--seed", "5"],
    "delete experiments": ["experiment", "delete", "experiment_1", "experiment_2"],
    "import": ["experiment", "import", "{bundle}"],
    "bundle": ["experiment", "bundle", "experiment_1", "-o", "{folder}/new.tar"],
    "report": ["experiment", "report", "experiment_1", "-o", "{folder}/new.html"],
}
"""Commands that change something, of the service or of this machine."""


@pytest.fixture
def acting(service: StandIn) -> StandIn:
    """A service that accepts every act."""
    for number in "12":
        job = a_job(id=f"job_{number}")
        for act in ("cancel", "retry", "extend"):
            service.on("POST", f"/v1/jobs/job_{number}/{act}", Answer(job))
        service.on("DELETE", f"/v1/jobs/job_{number}", Answer(b"", 204))
        path = f"/v1/experiments/experiment_{number}"
        service.on("POST", f"{path}/cancel", Answer(EXPERIMENT))
        service.on("PATCH", path, Answer(EXPERIMENT))
        service.on("DELETE", path, Answer(b"", 204))
        service.on("GET", f"{path}/bundle", Answer(b"tar"))
        service.on("GET", f"{path}/report", Answer(b"<html>"))
    service.on("POST", "/v1/jobs", Answer(a_job(), 201))
    service.on("POST", "/v1/experiments", Answer(EXPERIMENT, 201))
    service.on("POST", "/v1/bundles", Answer(EXPERIMENT, 201))
    return service


@contextmanager
def full_disk() -> Iterator[TextIO]:
    """Make standard output a full disk."""
    with open("/dev/full", "wb", buffering=0) as raw:
        yield from _as_standard_output(raw)


@contextmanager
def closed_pipe() -> Iterator[TextIO]:
    """Make standard output a pipe whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb", buffering=0) as raw:
        yield from _as_standard_output(raw)


def _as_standard_output(raw: io.FileIO) -> Iterator[TextIO]:
    with pytest.MonkeyPatch.context() as patch:
        broken = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")
        patch.setattr(sys, "stdout", broken)
        yield broken
        broken.close()  # nothing is pending, or it would fail again when Python exits, with code 120


Broken = Callable[[], AbstractContextManager[TextIO]]


@pytest.mark.parametrize("broken", [full_disk, closed_pipe])
class TestWhereNothingCanBeWritten:
    @pytest.mark.parametrize("act", ACTS)
    def test_an_act_is_done_and_succeeds(
        self, run: Run, acting: StandIn, tmp_path: Path, broken: Broken, act: str
    ) -> None:
        (tmp_path / "bundle").write_bytes(b"tar")
        arguments = [part.format(bundle=tmp_path / "bundle", folder=tmp_path) for part in ACTS[act]]
        with broken():
            ended = run("--url", acting.url, *arguments)
        assert ended.code == Exit.OK
        assert len(acting.requests) == sum(part[-2:] in ("_1", "_2") for part in arguments) or 1
        assert "Traceback" not in ended.err

    def test_a_list_fails_or_ends_quietly(self, run: Run, service: StandIn, broken: Broken) -> None:
        service.on("GET", "/v1/jobs", Answer({"data": [a_job()] * 100, "next_cursor": None}))
        for arguments in (["jobs"], ["jobs", "--json"]):
            with broken():
                ended = run("--url", service.url, *arguments)
            full = "normlab: standard output: No space left on device\n"
            assert (ended.code, ended.err) in [(Exit.PIPE, ""), (Exit.FAILED, full)]

    def test_a_followed_job_ends_it(self, run: Run, service: StandIn, broken: Broken) -> None:
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(status="succeeded")))
        events = ("1", "status", {"status": "queued"}), ("", "end", {"status": "succeeded"})
        service.on("GET", "/v1/jobs/job_1/events", stream(*events))
        for more in ([], ["--json"]):
            with broken():
                assert run("--url", service.url, "watch", "job_1", *more).code in (Exit.PIPE, Exit.FAILED)

    def test_what_a_service_says_does_not_end_it(self, broken: Broken) -> None:
        with broken():
            for _ in range(1000):
                say("the api was ended by SIGKILL and is restarted")

    def test_an_error_is_told_to_nobody(self, broken: Broken, monkeypatch: pytest.MonkeyPatch) -> None:
        with broken() as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            complain("it failed")
            announce(None, "exported", stderr=True)

    def test_what_is_pending_is_discarded(self, broken: Broken) -> None:
        with broken() as stream:
            stream.write("x")
            with pytest.raises(OSError):  # noqa: PT011
                stream.flush()
            discard_pending(stream)


def test_output_goes_on_once_the_disk_has_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    with log.open("w") as file, open("/dev/full", "wb") as full:
        monkeypatch.setattr(sys, "stdout", file)
        say("first")
        kept = os.dup(file.fileno())
        os.dup2(full.fileno(), file.fileno())
        say("second")
        os.dup2(kept, file.fileno())
        os.close(kept)
        say("third")
    assert log.read_text() == "first\nthird\n"


PROGRAM = [sys.executable, "-m", "service.cli"]


@pytest.mark.parametrize("redirection", ["1>/dev/full", "1>&- 2>&-", "2>/dev/full", "0<&-"])
def test_a_submission_succeeds_wherever_its_streams_lead(acting: StandIn, redirection: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *PROGRAM, "--url", acting.url, *SUBMIT]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, len(acting.requests)) == (Exit.OK, 1)
    assert "Traceback" not in ended.stderr


def test_a_closed_stream_is_not_replaced_by_the_next_file(acting: StandIn, tmp_path: Path) -> None:
    arguments = ["experiment", "bundle", "experiment_1", "-o", str(tmp_path / "new.tar")]
    command = ["/bin/sh", "-c", 'exec "$@" 1>&-', "sh", *PROGRAM, "--url", acting.url, *arguments]
    assert subprocess.run(command, check=False).returncode == Exit.OK
    assert (tmp_path / "new.tar").read_bytes() == b"tar"


class TestNames:
    """Names of people in every table and line."""

    @pytest.mark.parametrize("name", HOSTILE)
    def test_are_printed_as_they_are(self, run: Run, service: StandIn, name: str) -> None:
        error = {"message": name, "step": 1}
        job = a_job(name=name, labels={name: name}, error=error, history=[], normalization=name)
        service.on("POST", "/v1/jobs", Answer(job, 201))
        service.on("GET", "/v1/jobs", Answer({"data": [job], "next_cursor": None}))
        service.on("GET", "/v1/jobs/job_1", Answer(job))
        for arguments in (SUBMIT, ["jobs"], ["show", "job_1"]):
            ended = run("--url", service.url, *arguments)
            assert ended.code == Exit.OK
            assert name in ended.out
        assert len(service.to("POST", "/v1/jobs")) == 1

    def test_do_not_control_the_terminal(self, run: Run, service: StandIn) -> None:
        job = a_job(name="\x1b[2J\x9b2J\x07", error={"message": "one\ntwo\r", "step": 1})
        service.on("GET", "/v1/jobs/job_1", Answer(job))
        ended = run("--url", service.url, "show", "job_1")
        assert "␛[2J�2J" in ended.out
        assert {character for character in ended.out if not character.isprintable()} == {"\n"}

    @pytest.mark.parametrize("name", HOSTILE)
    def test_are_drawn_as_they_are_on_a_terminal(self, service: StandIn, name: str) -> None:
        ended = a_job(name=name, status="failed", error={"message": name, "step": 1})
        service.on("GET", "/v1/jobs/job_1", Answer(ended))
        warning = {"level": "warning", "message": name, "time": "2026-01-01T00:00:00Z"}
        service.on("GET", "/v1/jobs/job_1/events", stream(("4", "log", warning), ("", "end", {"status": "failed"})))
        out = Output(force_terminal=True, width=200, record=True, file=io.StringIO())
        with Client(service.url) as client:
            to_the_end(client, ["job_1"], Bars(out))
        assert out.export_text().count(name) >= 3
        with checkpoints._bar(out, name) as on_progress:
            on_progress(1, 2)

    def test_are_replaced_where_the_terminal_has_no_such_characters(
        self, run: Run, service: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = a_job(name="é")
        service.on("POST", "/v1/jobs", Answer(job, 201))
        service.on("GET", "/v1/jobs", Answer({"data": [job], "next_cursor": None}))
        for arguments, printed in (
            (SUBMIT, "job_1  ?  queued\n"),
            (["jobs"], "  ?  "),
            (["jobs", "--json"], '"name": "\\u00e9"'),
        ):
            content = io.BytesIO()
            monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
            assert run("--url", service.url, *arguments).code == Exit.OK
            assert printed in content.getvalue().decode("ascii")
            if "--json" in arguments:
                assert json.loads(content.getvalue()) == [job]
        assert len(service.to("POST", "/v1/jobs")) == 1

    def test_that_are_no_unicode_are_replaced(
        self, run: Run, service: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="utf-8"))
        service.on("POST", "/v1/jobs", Answer(a_job(title="\ud800"), 201))
        assert run("--url", service.url, *SUBMIT).code == Exit.OK
        assert content.getvalue().startswith(b"job_1  ?  queued\n")


def test_a_table_in_a_pipe_is_wide_enough(capsys: pytest.CaptureFixture[str]) -> None:
    console().print(jobs_table([a_job(name="n" * 60)]))
    assert "n" * 60 in capsys.readouterr().out
