"""Every value that a command prints is whole in a terminal of any width: run in a pseudoterminal."""

import io
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from itertools import product

import pytest
from rich.console import RenderableType
from rich.progress import Task
from rich.text import Text

from service.cli.folding import FoldingProgress, Grid, Screenful, Value, bar
from service.cli.output import Output
from tests.unit.service.stand_in import Answer, Json, StandIn, a_job, running, stream

WIDTHS = (40, 60, 80, 120, 200)
JOBS = ("job_01kb4x5m6n7p8q9r0s1t2v3w4x", "job_01kb4x5m6n7p8q9r0s1t2v3w4y")
STUDY = "experiment_01kb4x5m6n7p8q9r0s1t2v3w"
EXTENDED = "job_01kb4x5m6n7p8q9r0s1t2v3w4z"
LONG = "a name that says which study this job is of, and what was changed in it since the last"
SHOWN = ["12.3 %", "10.1 %", "1/200", "group (8)", "resnet20"]
EVENTS = stream(
    ("1", "status", {"status": "running"}),
    (
        "2",
        "progress",
        {"epoch": 1, "step": 78125, "total_steps": 312500, "images_per_s": 1234.0, "eta_s": 7384.0, "train_loss": 1.25},
    ),
    ("3", "log", {"level": "warning", "message": "slow disk", "time": "2026-01-01T00:00:00Z"}),
    ("", "end", {"status": "succeeded"}),
)
COMPARISON: Json = {
    "column": "2",
    "row_a": "batch (ghost batches of 16)",
    "row_b": "group (channels per group 16)",
    "n": 5,
    "difference": 0.0193,
    "interval": [-0.0549, 0.0933],
    "p_adjusted": 0.000123,
    "resolved": False,
    "seeds_needed": 12,
    "failed": 0,
}
HEADLINE = "At batch size 1024, the one has 5.49 percentage points more test error than the other, [synthetic]."
RESULTS: Json = {
    "headline": HEADLINE,
    "metric": "test_error",
    "statistic": "median_last_5",
    "statistic_title": "median of the last five epochs",
    "stage": None,
    "tuning": None,
    "beside": [],
    "datasets": ["synthetic (train_limit 10000)"],
    "rows": {"field": "normalization", "values": [{"label": COMPARISON[row]} for row in ("row_a", "row_b")]},
    "columns": {"field": "batch_size", "values": [{"label": "2"}, {"label": "1024"}]},
    "cells": [
        {"row": COMPARISON[row], "column": column, "n": 5, "mean": 0.1234, "interval": [0.1, 0.1468], "counts": {}}
        for row, column in product(("row_a", "row_b"), ("2", "1024"))
    ],
    "comparisons": [COMPARISON, COMPARISON | {"column": "1024", "resolved": True}],
    "warnings": [{"severity": "warning", "detail": "Settings differ between the rows: learning_rate."}],
}
CELL, PAIR = "12.34 ± 2.34 (5)", ["-5.49 to +9.33", "+1.93", "0.000123", "no, 12 more seeds might", "yes"]
EXPERIMENT: Json = {
    "request": {"base": {"labels": {"study": "paper"}}},
    "id": STUDY,
    "name": LONG,
    "title": LONG,
    "status": "finished",
    "jobs": 1200,
    "progress": 1.0,
    "eta_s": None,
    "counts": {"succeeded": 1200},
    "precision": "float32",
    "rows": "normalization",
    "columns": "optimizer.learning_rate",
    "created_at": "2026-01-01T00:00:00Z",
    "axes": [{"field": "optimizer.learning_rate", "values": [{"label": "0.1"}, {"label": "0.025"}]}],
    "budget": 0.05,
    "sequential": None,
    "tuning": None,
    "warnings": RESULTS["warnings"],
}
CLUSTER: Json = {
    "dispatcher": {"alive": True},
    "ray": {"status": "connected", "address": "192.168.100.200:6379"},
    "slots": {"total": 16, "busy": 12, "free": 4},
    "queue": {"queued": 1234},
    "nodes": [{"address": "192.168.100.200", "id": "1", "cpus": 64.0, "gpus": 8.0, "alive": True}],
    "workers": [{"id": "worker_01kb4x5m6n7p", "device": "cuda:0", "state": "busy", "job": JOBS[0]}],
}
CHECKPOINT: Json = {
    "id": "checkpoint_01kb4x5m6n7p8q9r0s1t2v",
    "epoch": 200,
    "step": 312500,
    "metrics": {"test_error": 0.1234},
    "files": [{"size": 123_400_000}],
    "best": True,
}
EVALUATION: Json = {
    "id": "evaluation_01kb4x5m6n7p8q9r0s1t2v",
    "checkpoint": CHECKPOINT["id"],
    "split": "holdout",
    "precision": "bfloat16",
    "batch_statistics": 128,
    "precise_statistics": None,
    "status": "succeeded",
    "error": None,
    "predictions": {
        "images": 10000,
        "error": 0.1234,
        "loss": 1.2345,
        "classes": [{"name": name, "images": 1000, "error": 0.4321} for name in ("automobile", "airplane", "truck")],
        "confusion": [[568, 231, 201], [432, 568, 0], [0, 432, 568]],
    },
}
OTHER_STUDY = "experiment_01kb4x5m6n7p8q9r0s1t2v3x"
OTHER = "another name that is long as well"
COMPARED: Json = RESULTS | {
    "experiments": [
        {
            "experiment": experiment,
            "title": title,
            "cells": RESULTS["cells"],
            "warnings": [{"severity": "warning", "detail": "slower in both"}],
        }
        for experiment, title in ((STUDY, LONG), (OTHER_STUDY, OTHER))
    ],
    "differences": [
        COMPARISON
        | {"row": COMPARISON["row_a"], "experiment_a": STUDY, "experiment_b": OTHER_STUDY, "resolved": resolved}
        for resolved in (False, True)
    ],
}
STORED: Json = {
    "checkpoints": 37,
    "bytes": 3_600_000_950,
    "free_bytes": 20 * 10**9,
    "experiments": [{"id": STUDY, "title": LONG, "jobs": 1200, "checkpoints": 36, "bytes": 3_600_000_000}],
    "jobs": [{"id": JOBS[0], "title": LONG, "status": "succeeded", "checkpoints": 3, "bytes": 300_000_000}],
}
SHARE: Json = {
    "id": "share_01kb4x5m6n7p8q9r0s1t2v3w4x",
    "anonymous": True,
    "created_by": "a-reviewer-of-the-paper",
    "created_at": "2026-01-01T00:00:00Z",
    "expires_at": "2026-07-01T12:00:00Z",
}
DELIVERY: Json = {
    "id": "delivery_01kb4x5m6n7p8q9r0s1t2v3w4x",
    "event": "job.ended",
    "subject": JOBS[0],
    "status": "failed",
    "tries": 12,
    "answer": 503,
    "error": "the answer was 503, Service Unavailable, and it was tried for three days",
    "created_at": "2026-01-01T00:00:00Z",
}
PREVIEW: Json = {
    "jobs": [{}] * 48,
    "cells": 16,
    "most_jobs": 48,
    "tuning": None,
    "cost": {"device_s": 7384.0, "elapsed_s": 3692.0, "slots": 2, "basis": LONG},
    "precision": {"reason": "bfloat16 is 1.7 times as fast here"},
    "warnings": RESULTS["warnings"],
}
CHANGED = "2026-01-01 09:08:07 UTC  queued  submitted by a very patient person"
COMMANDS: dict[str, list[str]] = {
    "jobs": [*JOBS, *SHOWN, "succeeded", LONG],
    f"show {JOBS[0]}": [JOBS[0], EXTENDED, LONG, "study=paper:a,b", CHANGED, "epoch 1/200, step 78125/312500"],
    f"watch {' '.join(JOBS)}": [LONG, "succeeded", "1/200", "loss 1.25", "error 12.3 %"],
    f"checkpoints {JOBS[0]}": [CHECKPOINT["id"], "200", "312500", "12.3 %", "123.4 MB", "best"],
    f"evaluate {CHECKPOINT['id']}": [CHECKPOINT["id"], "batches of 128", "12.3 %", "43.2 %", "airplane 231, truck 201"],
    "experiment list": [STUDY, "finished", "1200", "100 %", "normalization", "optimizer.learning_rate", LONG],
    f"experiment show {STUDY}": [STUDY, "2 optimizer.learning_rate", "0.1, 0.025", "study=paper", "1200 succeeded"],
    f"experiment watch {STUDY}": ["finished, 100 %: 1200 succeeded", CELL, *PAIR],
    f"compare {STUDY} {OTHER_STUDY}": ["1024", CELL, COMPARISON["row_a"], *PAIR, OTHER, "slower in both"],
    "webhook deliveries": [DELIVERY["id"], "job.ended", JOBS[0], "failed", "12", "503", DELIVERY["error"]],
    "storage": ["37, 3.6 GB", "20.0 GB", STUDY, "1200", "3.6 GB", JOBS[0], "300.0 MB", LONG],
    f"experiment shares {STUDY}": [SHARE["id"], "yes", "a-reviewer-of-the-paper", "2026-07-01 12:00:00 UTC"],
    "experiment submit paper-batch-size --dry-run": ["48 jobs in 16 cells", "2:03:04 of training", LONG, "bfloat16 is"],
    f"results {STUDY}": [HEADLINE, "1024", CELL, COMPARISON["row_a"], COMPARISON["row_b"], *PAIR],
    "cluster": ["192.168.100.200:6379", "16: 12 busy, 4 free", "1234 waiting", JOBS[0], "worker_01kb4x5m6n7p"],
}
"""Commands, and the values that they print."""

CHILD = """
import fcntl, struct, sys, termios
from service.cli import main
widths, url, commands = {widths!r}, {url!r}, {commands!r}
for width in widths:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    for command in commands:
        sys.argv = ["normlab", "--url", url, *command.split()]
        try:
            main()
        except SystemExit as ended:
            print(f"\\x1eexit {{ended.code or 0}}\\x1e", flush=True)
"""


def a_service(service: StandIn) -> None:
    jobs = [
        a_job(
            id=job,
            name=LONG,
            status="succeeded",
            spec=a_job()["spec"] | {"epochs": 200, "seed": seed},
            progress={"epoch": 1, "step": 78125, "total_steps": 312500, "eta_s": None},
            summary={"test_error": {"last": 0.123, "best": 0.101, "best_step": 312000}},
            labels={"study": "paper:a,b"},
            extends=EXTENDED,
            history=[
                {"time": "2026-01-01T09:08:07Z", "status": "queued", "reason": "submitted by a very patient person"}
            ],
        )
        for seed, job in enumerate(JOBS)
    ]
    service.on("GET", "/v1/jobs", Answer({"data": jobs, "next_cursor": None}))
    for job in jobs:
        service.on("GET", f"/v1/jobs/{job['id']}", Answer(job))
        service.on("GET", f"/v1/jobs/{job['id']}/events", EVENTS)
    service.on("GET", f"/v1/jobs/{JOBS[0]}/checkpoints", Answer({"data": [CHECKPOINT], "next_cursor": None}))
    service.on("POST", f"/v1/checkpoints/{CHECKPOINT['id']}/evaluate", Answer(EVALUATION, 202))
    service.on("GET", "/v1/experiments", Answer({"data": [EXPERIMENT], "next_cursor": None}))
    service.on("GET", f"/v1/experiments/{STUDY}", Answer(EXPERIMENT))
    service.on("GET", f"/v1/experiments/{STUDY}/results", Answer(RESULTS))
    service.on("GET", "/v1/cluster", Answer(CLUSTER))
    service.on("GET", "/v1/comparison", Answer(COMPARED))
    service.on("GET", "/v1/storage", Answer(STORED))
    service.on("GET", "/v1/webhook/deliveries", Answer({"data": [DELIVERY], "next_cursor": None}))
    service.on("GET", f"/v1/experiments/{STUDY}/shares", Answer({"data": [SHARE]}))
    service.on("POST", "/v1/experiments", Answer(PREVIEW))


@pytest.fixture(scope="module")
def screens() -> dict[tuple[int, str], str]:
    """What each command leaves on a terminal of each width, all run by one process."""
    with running() as service:
        a_service(service)
        program = CHILD.format(widths=WIDTHS, url=service.url, commands=list(COMMANDS))
        ours, theirs = pty.openpty()
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "CI")}
        command = [sys.executable, "-c", program]
        environment |= {"TERM": "xterm", "TZ": "UTC"}
        with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            written = io.BytesIO()
            try:
                while part := os.read(ours, 65536):
                    written.write(part)
            except OSError:  # a terminal that its last process has left
                pass
            os.close(ours)
        assert process.returncode == 0, written.getvalue().decode()
    outputs = re.split("\x1eexit 0\x1e\r\n", written.getvalue().decode())
    runs = list(product(WIDTHS, COMMANDS))
    assert len(outputs) == len(runs) + 1, outputs[-1]
    return {run: last_frame(output) for run, output in zip(runs, outputs[:-1], strict=True)}


def last_frame(output: str) -> str:
    """Return the text after the last erased line, without codes of colour."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.rpartition("\x1b[2K")[2]).replace("\r\n", "\n")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_value_is_whole(screens: dict[tuple[int, str], str], width: int, command: str) -> None:
    screen = screens[width, command]
    lines = screen.splitlines()
    for value in COMMANDS[command]:
        pattern = rf"(?<![\w.]){re.escape(value)}(?![\w.])"
        if len(value) > width - 20:  # it may continue on the next line
            pattern = pattern.replace("\\ ", r"\s+")
            assert re.search(pattern, screen), f"{value!r} is not whole in\n{screen}"
        else:
            assert any(re.search(pattern, line) for line in lines), f"{value!r} is not whole in\n{screen}"
    assert max(map(len, lines)) <= width
    assert "…" not in screen


def drawn(content: RenderableType, width: int, height: int = 25) -> list[str]:
    """Return the lines of something on a terminal of `width` columns."""
    out = Output(force_terminal=True, width=width, height=height, file=io.StringIO())
    return [line.rstrip() for line in Text.from_ansi(_printed(out, content)).plain.splitlines()]


def _printed(out: Output, content: RenderableType) -> str:
    with out.capture() as captured:
        out.print(content)
    return captured.get()


class TestGrid:
    def table(self, *rows: tuple[str, str, str]) -> Grid:
        table = Grid("ID", "MODEL", "SEED", right=("SEED",))
        for row in rows:
            table.add_row(*row)
        return table

    def test_has_a_line_for_each_row(self) -> None:
        rows = drawn(self.table(("job_1", "resnet20", "1"), ("job_2", "resnet56", "12")), 21)
        assert rows == ["ID     MODEL     SEED", "job_1  resnet20     1", "job_2  resnet56    12"]

    def test_moves_what_all_rows_share_to_a_note(self) -> None:
        rows = drawn(self.table(("job_1", "resnet20", "1"), ("job_2", "resnet20", "12")), 20)
        assert rows == ["ID     SEED", "job_1     1", "job_2    12", "In every row:", "  MODEL: resnet20"]

    def test_folds_rows_into_blocks(self) -> None:
        rows = drawn(self.table(("job_1", "resnet20", "1"), ("job_2", "a long one", "")), 20)
        assert rows == ["ID: job_1", "  MODEL: resnet20", "  SEED: 1", "ID: job_2", "  MODEL: a long one"]

    def test_is_never_folded_in_a_pipe(self) -> None:
        out = Output(force_terminal=False, width=20, file=io.StringIO())
        lines = _printed(out, self.table(("job_1", "a" * 500, "1"), ("job_2", "b", "2"))).splitlines()
        assert [line.split() for line in lines[1:]] == [["job_1", "a" * 500, "1"], ["job_2", "b", "2"]]

    def test_keeps_a_row_of_a_text_with_lines_on_one_line(self) -> None:
        assert drawn(self.table(("job_1", "one\ntwo", "1")), 80)[1:] == ["job_1  one␊two     1"]


@pytest.mark.parametrize("width", [30, 200])
class TestMoreThanTheTerminalHasLines:
    def test_bars_under_way_are_drawn_and_the_others_counted(self, width: int) -> None:
        out = Output(force_terminal=True, width=width, height=12, file=io.StringIO())
        progress = FoldingProgress(Value(lambda task: task.description), bar(), count=count, console=out)
        for number in range(30):
            progress.add_task(f"job {number}", total=10, completed=5 if number == 29 else 0)
        with progress:
            text = drawn_text(progress, out)
            assert len(text.splitlines()) < 12
            assert "job 29" in text
            assert re.search(r"^\d\d more, which wait$", text, re.MULTILINE)
        assert all(f"job {number} " in drawn_text(progress, out) for number in range(30))

    def test_a_table_says_where_the_rest_is(self, width: int) -> None:
        lines = drawn(Screenful(Text("\n".join(map(str, range(30)))), "`normlab results` prints all."), width, 12)
        assert len(lines) < 12
        assert lines[:3] == ["0", "1", "2"]
        assert "prints all." in lines[-1]


def count(tasks: Sequence[Task]) -> str:
    return f"{len(tasks)} more, which wait"


def drawn_text(progress: FoldingProgress, out: Output) -> str:
    return "".join(segment.text for segment in out.render(progress.get_renderable()))
