"""The command line: its output, its errors and its exit codes. Most tests use the real API, without a dispatcher."""

import hashlib
import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from service.cli.exits import EXIT_CODES, Exit
from service.cli.tables import duration, jobs_table, per_cent
from service.cli.watching import Bars, Display, Lines, to_the_end
from service.client import Client
from service.local.private_ray import free_port
from tests.unit.service.conftest import Ended, Run
from tests.unit.service.stand_in import Answer, Json, StandIn, a_job, file_server, problem, stream

ARGUMENTS = ["submit", "--normalization", "group", "--num-groups", "8", "--batch-size", "2"]


class TestSubmit:
    def test_queues_what_the_flags_say(self, lab: Run) -> None:
        more = ["--name", "gn at 2", "--label", "study=paper", "--learning-rate", "0.2", "--train-limit", "100"]
        job = lab(*ARGUMENTS, *more, "--schedule", "cosine", "--json").json
        assert job["name"] == "gn at 2"
        assert job["labels"] == {"study": "paper"}
        spec = job["spec"]
        assert spec["normalization"]["num_groups"] == 8
        assert (spec["optimizer"]["type"], spec["optimizer"]["learning_rate"]) == ("sgd", 0.2)
        assert spec["dataset"]["train_limit"] == 100
        assert spec["schedule"]["type"] == "cosine"

    def test_prints_the_id_and_how_to_go_on(self, lab: Run) -> None:
        ended = lab(*ARGUMENTS)
        assert re.match(
            r"job_\w+  group \(8\), batch size 2, model resnet20, seed 0  queued\nnormlab watch job_", ended.out
        )

    def test_takes_a_file_and_flags_go_over_it(self, lab: Run, tmp_path: Path) -> None:
        file = tmp_path / "job.json"
        file.write_text(
            json.dumps({"normalization": {"type": "group", "num_groups": 4}, "batch_size": 8, "labels": {"a": "b"}})
        )
        job = lab("submit", str(file), "--batch-size", "16", "--label", "c=d", "--json").json
        assert (job["spec"]["batch_size"], job["spec"]["normalization"]["num_groups"]) == (16, 4)
        assert job["labels"] == {"a": "b", "c": "d"}
        job = lab("submit", str(file), "--normalization", "batch", "--json").json
        assert job["spec"]["normalization"]["type"] == "batch"

    def test_a_recipe_keeps_its_optimizer_under_another_learning_rate(self, lab: Run) -> None:
        job = lab("submit", "-n", "batch", "--recipe", "labml", "--learning-rate", "0.01", "--json").json
        assert job["spec"]["optimizer"]["type"] == "adam"
        assert job["spec"]["optimizer"]["learning_rate"] == 0.01

    def test_smoothing_and_an_average_of_the_weights_are_flags(self, lab: Run) -> None:
        job = lab("submit", "-n", "batch", "-b", "8", "--label-smoothing", "0.1", "--ema", "0.99", "--json").json
        assert (job["spec"]["label_smoothing"], job["spec"]["ema"]) == (0.1, {"decay": 0.99})

    def test_the_same_key_twice_is_one_job(self, lab: Run) -> None:
        ids = {lab(*ARGUMENTS, "--idempotency-key", "once", "--json").json["id"] for _ in range(2)}
        assert len(ids) == 1

    def test_an_invalid_job_names_the_field_and_what_is_accepted(self, lab: Run) -> None:
        ended = lab("submit", "-n", "group", "--num-groups", "7", "-b", "2")
        assert ended.code == Exit.INVALID
        assert ended.out == ""
        assert ended.err.startswith("normlab: --num-groups is 7, which does not divide the 16")

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["submit", "/nowhere/job.json"], "/nowhere/job.json: No such file or directory"),
            (["submit", "{list}"], "does not contain an object"),
            (["submit", "{broken}"], "is not JSON"),
            (["submit", "{odd}", "--learning-rate", "1"], "optimizer is 'sgd' in the file"),
            ([*ARGUMENTS, "--label", "x"], "--label is 'x': give it as KEY=VALUE"),
            (["submit", "--epochs", "many"], "Invalid value for '--epochs'"),
            (["frobnicate"], "No such command 'frobnicate'"),
            (["logs", "job_1", "--level", "loud"], "--level is 'loud': give one of debug, info, warning, error"),
            (["jobs", "--label", "x"], "--label is 'x'"),
            (["--url", "nowhere", "jobs"], "the address of the service is 'nowhere'"),
        ],
    )
    def test_what_cannot_be_understood_is_one_sentence(
        self, run: Run, tmp_path: Path, arguments: list[str], sentence: str
    ) -> None:
        files = {"list": "[]", "broken": "{", "odd": '{"optimizer": "sgd"}'}
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        ended = run(*(argument.format(**{name: tmp_path / name for name in files}) for argument in arguments))
        assert sentence in ended.err
        assert ended.err.count("\n") == 1
        assert "Traceback" not in ended.err
        assert ended.code == Exit.INVALID


class TestJobs:
    def test_are_listed_with_what_tells_them_apart(self, lab: Run) -> None:
        lab("submit", "-n", "layer", "-b", "4", "--dataset", "synthetic", "--name", "tryout", "--label", "set=list")
        lines = lab("jobs", "--label", "set=list").out.splitlines()
        assert lines[0].split()[:4] == ["ID", "STATUS", "NORMALIZATION", "BATCH"]
        assert re.match(r"job_\w{26}  queued +layer +4  resnet20 +0 +0/30 +– +– .*tryout \[synthetic\]", lines[1])
        assert len(lines) == 2

    def test_as_json_are_what_the_api_says(self, lab: Run) -> None:
        job = lab(*ARGUMENTS, "--label", "set=json", "--json").json
        assert lab("jobs", "--label", "set=json", "--json").json[0]["id"] == job["id"]

    def test_go_through_their_life(self, lab: Run) -> None:
        job = lab(*ARGUMENTS, "--json").json["id"]
        assert lab("pause", job).out == f"{job}  group (8), batch size 2, model resnet20, seed 0  paused\n"
        assert lab("resume", job, "--json").json["status"] == "queued"
        assert lab("cancel", job).code == Exit.OK
        assert "cancelled" in lab("show", job).out
        assert "cannot be extended: only a job that has succeeded can" in lab("extend", job, "--epochs", "60").err
        again = lab("retry", job, "--json").json
        assert again["retry_of"] == job
        assert lab("delete", job).out == f"{job}  deleted\n"
        ended = lab("show", job)
        assert (ended.code, ended.err) == (Exit.REFUSED, f"normlab: There is no job {job}.\n")

    @pytest.mark.parametrize(
        ("gpu", "says"),
        [
            (None, "2:05 of CPU time, up to 8.6 GB of memory\n"),
            (999, "2:05 of CPU time, up to 8.6 GB of memory, 999 B of GPU memory, GPU utilization 87 %\n"),
        ],
    )
    def test_show_what_each_attempt_used(self, run: Run, service: StandIn, gpu: int | None, says: str) -> None:
        usage: Json = {"cpu_s": 125.0, "peak_memory_bytes": 2**33, "peak_gpu_memory_bytes": gpu}
        usage["gpu_utilization"] = gpu and 0.87
        attempt = {"number": 1, "outcome": None, "reason": None, "device": "cpu", "workers": [{"worker": "w"}]}
        queued: Json = dict.fromkeys(usage)
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(attempts=[attempt | usage, attempt | queued | {"number": 2}])))
        shown = run("--url", service.url, "show", "job_1").out
        assert says in shown
        assert shown.count("CPU time") == 1

    @pytest.mark.parametrize(
        ("zone", "says"),
        [
            ("UTC", "09:08:07 UTC "),
            ("Asia/Kolkata", "14:38:07 UTC+05:30 "),
            ("America/New_York", "04:08:07 UTC-05:00 "),
        ],
    )
    def test_show_when_their_status_changed_with_date_and_zone(
        self, run: Run, service: StandIn, monkeypatch: pytest.MonkeyPatch, zone: str, says: str
    ) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        changes = [{"time": "2026-01-01T09:08:07.5Z", "status": "queued", "reason": None}]
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(history=changes)))
        try:
            assert f"history    2026-01-01 {says} queued\n" in run("--url", service.url, "show", "job_1").out
        finally:
            monkeypatch.undo()
            time.tzset()

    @pytest.mark.parametrize(
        ("workers", "says"), [(1, "batch size 2, cifar10"), (4, "batch size 2 per worker, 4 workers, cifar10")]
    )
    def test_show_the_batch_size_of_each_worker(self, run: Run, service: StandIn, workers: int, says: str) -> None:
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(spec=a_job()["spec"] | {"num_workers": workers})))
        assert says in run("--url", service.url, "show", "job_1").out

    def test_are_edited_without_a_change_of_what_is_not_given(self, lab: Run) -> None:
        job = lab(*ARGUMENTS, "--name", "old", "--label", "a=1", "--label", "b=x,y:z", "--json").json["id"]
        edited = lab("edit", job, "--label", "a=2", "--label", "c=3", "--remove-label", "gone", "--json").json
        assert (edited["name"], edited["labels"]) == ("old", {"a": "2", "b": "x,y:z", "c": "3"})
        edited = lab(
            "edit", "last", "--name", "new", "--notes", "why", "--remove-label", "b", "--priority", "3", "--json"
        ).json
        assert edited["priority"] == 3
        assert (edited["id"], edited["name"], edited["notes"]) == (job, "new", "why")
        assert edited["labels"] == {"a": "2", "c": "3"}
        ended = lab("edit", job)
        assert (ended.code, ended.err) == (
            Exit.INVALID,
            "normlab: nothing to change: give --name, --notes, --label, --remove-label or --priority\n",
        )

    def test_the_newest_is_last(self, lab: Run) -> None:
        first, second = [lab(*ARGUMENTS, "--json").json["id"] for _ in range(2)]
        assert lab("show", "last", "--json").json["id"] == second
        assert lab("cancel", first, "last", "--json").code == Exit.OK
        assert lab("show", second, "--json").json["status"] == "cancelled"
        assert lab("delete", "last").code == Exit.REFUSED, "what is deleted is named by its id"

    def test_of_none_none_is_last(self, run: Run, service: StandIn) -> None:
        service.on("GET", "/v1/jobs", Answer({"data": [], "next_cursor": None}))
        service.on("GET", "/v1/experiments", Answer({"data": [], "next_cursor": None}))
        ended = run("--url", service.url, "show", "last")
        assert (ended.code, ended.err) == (Exit.INVALID, "normlab: there is no job yet, so `last` names none\n")
        ended = run("--url", service.url, "results", "last")
        assert (ended.code, ended.err) == (Exit.INVALID, "normlab: there is no experiment yet, so `last` names none\n")

    def test_that_cannot_do_what_is_asked_say_their_state(self, lab: Run) -> None:
        job = lab(*ARGUMENTS, "--json").json["id"]
        lab("cancel", job)
        ended = lab("resume", job)
        assert ended.code == Exit.REFUSED
        assert "cancelled" in ended.err

    def test_that_are_none_are_said_to_be_none(self, lab: Run) -> None:
        assert lab("jobs", "--search", "nobody calls a job like this").out == "No jobs.\n"

    def test_without_a_service_say_what_to_do(self, run: Run) -> None:
        ended = run("--url", f"http://127.0.0.1:{free_port()}", "jobs")
        assert ended.code == Exit.UNREACHABLE
        assert "normlab up" in ended.err

    def test_without_checkpoints_or_log_say_nothing_wrong(self, lab: Run) -> None:
        job = lab(*ARGUMENTS, "--json").json["id"]
        assert lab("checkpoints", job).out == "No checkpoints yet.\n"
        assert lab("logs", job) == Ended(0, "", "")
        assert lab("download", job).code == Exit.REFUSED

    def test_show_what_there_is_to_train_on(self, lab: Run) -> None:
        assert "does not run" in lab("cluster").out
        assert lab("cluster", "--json").json["slots"]["total"] == 0


class TestWatch:
    EVENTS = (
        ("1", "status", {"status": "queued", "reason": None}),
        ("2", "status", {"status": "running", "reason": None}),
        ("3", "started", {"total_steps": 300, "step": 0}),
        ("", "progress", {"epoch": 1, "step": 50, "train_loss": 1.5, "images_per_s": 80.0, "eta_s": 61.0}),
        ("4", "log", {"level": "warning", "message": "slow disk", "time": "2026-01-01T00:00:00Z"}),
        ("5", "metrics", {"kind": "eval", "epoch": 1, "step": 100, "test_error": 0.5, "test_loss": 1.0}),
    )

    def watched(self, service: StandIn, status: str, job: str = "job_1", **more: Any) -> Json:
        service.on("GET", f"/v1/jobs/{job}/events", stream(*self.EVENTS, ("", "end", {"status": status})))
        ended = a_job(id=job, name=job, status=status, **more)
        service.on("GET", f"/v1/jobs/{job}", Answer(a_job(id=job, name=job)), Answer(ended))
        return ended

    def test_prints_lines_where_there_is_no_terminal(self, run: Run, service: StandIn) -> None:
        self.watched(service, "succeeded")
        ended = run("--url", service.url, "watch", "job_1")
        assert ended.out.splitlines() == [
            "job_1: queued",
            "job_1: running",
            "job_1: warning: slow disk",
            "job_1: epoch 1/3, test_error 50.0 %, train loss 1.500",
            "job_1: succeeded",
        ]
        assert ended.code == Exit.OK

    def test_prints_events_as_json_for_programs(self, run: Run, service: StandIn) -> None:
        self.watched(service, "succeeded")
        lines = [json.loads(line) for line in run("--url", service.url, "watch", "job_1", "--json").out.splitlines()]
        assert [line["event"] for line in lines][-2:] == ["metrics", "end"]
        assert {line["job"] for line in lines} == {"job_1"}

    @pytest.mark.parametrize("status", ["failed", "cancelled"])
    def test_ends_with_1_unless_every_job_succeeded(self, run: Run, service: StandIn, status: str) -> None:
        self.watched(service, "succeeded", "job_1")
        self.watched(service, status, "job_2", error={"message": "the loss is NaN", "step": 3})
        ended = run("--url", service.url, "watch", "job_1", "job_2")
        assert ended.code == Exit.FAILED
        assert f"job_2: {status}: the loss is NaN" in ended.out

    def test_follows_a_submission(self, run: Run, service: StandIn) -> None:
        self.watched(service, "succeeded")
        service.on("POST", "/v1/jobs", Answer(a_job(name="job_1"), 201))
        ended = run("--url", service.url, *ARGUMENTS, "--watch")
        assert ended.out.startswith("job_1  job_1  queued\njob_1: queued\n")
        assert ended.code == Exit.OK

    def test_interrupted_leaves_the_job_running_and_says_so(
        self, run: Run, service: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("service.cli.watching.to_the_end", interrupted)
        ended = run("--url", service.url, "watch", "job_1")
        assert ended.code == Exit.INTERRUPTED
        assert "the job keeps running. `normlab watch job_1` watches it again" in ended.err
        assert {request.method for request in service.requests} == {"GET"}

    def test_draws_a_bar_on_a_terminal(self, service: StandIn) -> None:
        self.watched(service, "succeeded")
        out = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
        with Client(service.url) as client:
            [job] = to_the_end(client, ["job_1"], Bars(out))
        assert (job.step, job.total_steps, job.error) == (100, 300, 0.5)
        shown = out.export_text()
        assert "succeeded" in shown
        assert "error 50.0 %" in shown
        assert "job_1: slow disk" in shown

    @pytest.mark.parametrize("display", [Bars, Lines])
    def test_says_that_the_database_was_replaced_and_begins_anew(
        self, service: StandIn, display: Callable[[Console], Display]
    ) -> None:
        self.watched(service, "succeeded")
        events = stream(*self.EVENTS, ("0", "reset", {"unknown": 9}), ("", "end", {"status": "succeeded"}))
        service.on("GET", "/v1/jobs/job_1/events", events)
        out = Console(force_terminal=True, width=120, record=True, file=io.StringIO())
        with Client(service.url) as client:
            [job] = to_the_end(client, ["job_1"], display(out))
        assert (job.step, job.total_steps, job.error) == (0, None, None)
        assert "job_1: the database of the service was replaced" in out.export_text()

    def test_of_a_service_that_goes_away_for_good_ends(self, service: StandIn) -> None:
        self.watched(service, "succeeded")
        service.on("GET", "/v1/jobs/job_1/events", problem(503, "away"))
        with Client(service.url, backoff_s=0.001, patience_s=0.05) as client, pytest.raises(Exception, match="away"):
            to_the_end(client, ["job_1"], Bars(Console(force_terminal=True, file=io.StringIO())))


class TestLogs:
    LINE: ClassVar[Json] = {
        "id": 4,
        "time": "2026-01-01T10:00:00Z",
        "level": "error",
        "message": "out of [memory]",
        "attempt": "a",
    }

    def test_are_printed_as_they_are(self, run: Run, service: StandIn) -> None:
        service.on("GET", "/v1/jobs/job_1/logs", Answer({"data": [self.LINE], "next_cursor": None}))
        ended = run("--url", service.url, "logs", "job_1", "--level", "warning")
        assert re.fullmatch(r"\d\d:\d\d:\d\d  error    out of \[memory\]\n", ended.out)
        assert service.to("GET", "/v1/jobs/job_1/logs")[0].query["level"] == ["warning", "error"]

    def test_are_followed_from_where_they_ended(self, run: Run, service: StandIn) -> None:
        service.on("GET", "/v1/jobs/job_1/logs", Answer({"data": [self.LINE], "next_cursor": None}))
        later = {**self.LINE, "message": "again"}
        quiet = {**self.LINE, "level": "debug"}
        end = ("", "end", {"status": "failed"})
        reset = ("0", "reset", {"unknown": 5})
        service.on("GET", "/v1/jobs/job_1/events", stream(("5", "log", later), reset, ("6", "log", quiet), end))
        ended = run("--url", service.url, "logs", "job_1", "--follow", "--json")
        assert [json.loads(line)["message"] for line in ended.out.splitlines()] == ["out of [memory]", "again"]
        assert ended.err == "normlab: the database of the service was replaced; the log follows from the start\n"
        assert service.requests[-1].headers["last-event-id"] == "4"


class TestDownload:
    @pytest.fixture(autouse=True)
    def checkpoint(self, service: StandIn) -> None:
        content = b"weights"
        sha256 = hashlib.sha256(content).hexdigest()
        file = {
            "name": "model.safetensors",
            "size": 7,
            "sha256": sha256,
            "url": "/v1/checkpoints/checkpoint_1/files/model.safetensors",
        }
        found = Answer(
            {
                "id": "checkpoint_1",
                "epoch": 2,
                "step": 20,
                "metrics": {"test_error": 0.25},
                "best": True,
                "files": [file],
            }
        )
        for path in ("checkpoints/checkpoint_1", "jobs/job_1/checkpoints/best", "jobs/job_1/checkpoints/latest"):
            service.on("GET", f"/v1/{path}", found)
        service.on("GET", "/v1/jobs/job_1/checkpoints", Answer({"data": [found.body], "next_cursor": None}))
        service.on("GET", str(file["url"]), file_server(content, sha256))

    @pytest.mark.parametrize("which", ["job_1", "job_1/best", "job_1/latest", "checkpoint_1"])
    def test_brings_the_weights(self, run: Run, service: StandIn, tmp_path: Path, which: str) -> None:
        target = tmp_path / "w.safetensors"
        ended = run("--url", service.url, "download", which, "--output", str(target))
        assert ended.out == f"{target}  epoch 2, step 20, error 25.0 %\n"
        assert target.read_bytes() == b"weights"

    def test_into_a_folder_that_is_not_there_is_refused(self, run: Run, service: StandIn, tmp_path: Path) -> None:
        ended = run("--url", service.url, "download", "job_1", "-o", str(tmp_path / "no" / "w"))
        assert ended.code == Exit.INVALID
        assert "does not exist" in ended.err

    def test_of_a_file_that_is_not_there_is_refused(self, run: Run, service: StandIn, tmp_path: Path) -> None:
        ended = run("--url", service.url, "download", "job_1", "--file", "x", "-o", str(tmp_path))
        assert (ended.code, "it has model.safetensors" in ended.err) == (Exit.INVALID, True)

    def test_checkpoints_are_listed(self, run: Run, service: StandIn) -> None:
        lines = run("--url", service.url, "checkpoints", "job_1").out.splitlines()
        assert lines[1].split() == ["checkpoint_1", "2", "20", "25.0", "%", "0.0", "MB", "best"]


class TestFigures:
    def test_are_short(self) -> None:
        assert [duration(s) for s in (None, 5, 187, 7384)] == ["–", "5 s", "3:07", "2:03:04"]
        assert [per_cent(e) for e in (None, 0.21449)] == ["–", "21.4 %"]

    def test_never_let_the_synthetic_set_pass_for_cifar10(self, lab: Run) -> None:
        submitted = lab(*ARGUMENTS, "--dataset", "synthetic", "--name", "gn")
        assert "gn [synthetic]" in submitted.out
        assert "gn [synthetic]" in lab("jobs").out

    def test_tell_jobs_apart_that_differ_only_in_the_ghost_batch_size(self) -> None:
        jobs = [a_job(), a_job()]
        for job, size in zip(jobs, (8, 16), strict=True):
            job["spec"]["normalization"] = {"type": "batch", "ghost_batch_size": size}
        out = Console(width=200, record=True)
        with out.capture() as shown:
            out.print(jobs_table([a_job(spec=job["spec"]) for job in jobs]))
        assert "batch (ghost batches of 8)" in shown.get()
        assert "batch (ghost batches of 16)" in shown.get()


def test_every_exit_code_is_explained_in_the_help(run: Run) -> None:
    help_text = " ".join(run("--help").out.split())
    assert set(EXIT_CODES) == set(Exit)
    for code, text in EXIT_CODES.items():
        assert f"{int(code)} {text}" in help_text


@pytest.mark.parametrize("arguments", [["--help"], ["--url", "http://127.0.0.1:{port}", "jobs"]], ids=["help", "jobs"])
def test_a_command_starts_without_what_only_servers_need(arguments: list[str]) -> None:
    program = """
import sys
import time
from collections.abc import Callable
from service.cli import main
try:
    main()
except SystemExit:
    pass
heavy = {"torch", "ray", "scipy", "sqlalchemy", "fastapi", "numpy", "matplotlib"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    arguments = [argument.format(port=free_port()) for argument in arguments]
    ended = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    assert ended.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_has_seen_enough_ends_a_command_quietly() -> None:
    program = "from service.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.close()
        assert command.wait() == Exit.PIPE
        assert command.stderr.read() == b""
