"""The commands for experiments and results, with the real API; tests report on jobs in place of a dispatcher."""

import csv
import io
import json
import re
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest
from rich.console import Console

from service.cli import experiments
from service.cli.exits import Exit
from service.cli.grids import cell_text, resolved_text
from service.client import Client
from service.experiments.numbers import Number
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, Json, StandIn

YAML = """
name: two norms
base:
  epochs: 2
grid:
  normalization:
    - type: batch
    - {type: group, num_groups: 8}
  batch_size: [2, 32]
  seed: [0, 1]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "experiment.yaml"
    path.write_text(YAML)
    return str(path)


class TestSubmit:
    def test_takes_a_file_of_yaml(self, lab: Run, file: str) -> None:
        experiment = lab("experiment", "submit", file, "--json").json
        assert (experiment["name"], experiment["jobs"]) == ("two norms", 8)
        assert experiment["request"]["base"] == {"epochs": 2}

    def test_takes_json_from_standard_input(self, lab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        text = json.dumps({"grid": {"normalization": [{"type": "none"}], "batch_size": [2]}})
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert lab("experiment", "submit", "-", "--json").json["jobs"] == 1

    def test_takes_the_name_of_a_built_in_one_and_flags(self, lab: Run) -> None:
        flags = ["--budget", "0.01", "--seeds", "2", "--name", "quick", "--priority", "3", "--json"]
        experiment = lab("experiment", "submit", "paper-batch-size", *flags).json
        assert (experiment["builtin"], experiment["budget"], experiment["jobs"]) == ("paper-batch-size", 0.01, 20)
        assert (experiment["name"], experiment["priority"]) == ("quick", 3)

    def test_prints_the_id_and_how_to_go_on(self, lab: Run, file: str) -> None:
        out = lab("experiment", "submit", file).out
        assert re.match(r"experiment_\w+  8 jobs  two norms\nnormlab experiment watch experiment_", out)

    def test_dry_says_what_it_would_make_and_makes_nothing(self, lab: Run, file: str) -> None:
        before = lab("experiment", "list", "--limit", "1000", "--json").json
        out = lab("experiment", "submit", file, "--dry-run").out
        assert "8 jobs in 4 cells" in out
        assert "Estimated from a nominal speed" in out
        assert "unequal" in out or "steps" in out, "a confound of batch sizes at equal epochs"
        assert len(lab("experiment", "submit", file, "--dry-run", "--json").json["jobs"]) == 8
        assert lab("experiment", "list", "--limit", "1000", "--json").json == before

    def test_the_same_key_twice_is_one_experiment(self, lab: Run, file: str) -> None:
        ids = {lab("experiment", "submit", file, "--idempotency-key", "e", "--json").json["id"] for _ in range(2)}
        assert len(ids) == 1

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("grid: [", "is not YAML or JSON"),
            ("- a", "does not contain an object: give an experiment with name, base and grid"),
            ("grid: 3", "grid is 3 in the file"),
            ("gird: {}", "/gird: There is no gird: did you mean grid?"),
            ("grid: {batch_size: [0], normalization: [{type: batch}]}", "/grid/batch_size/0: batch_size is 0"),
        ],
    )
    def test_what_is_wrong_is_one_sentence(self, lab: Run, tmp_path: Path, text: str, sentence: str) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        ended = lab("experiment", "submit", str(path), "--seeds", "1")
        assert ended.code == Exit.INVALID
        assert sentence in ended.err
        assert ended.out == ""

    def test_an_unknown_name_lists_the_known_ones(self, lab: Run) -> None:
        ended = lab("experiment", "submit", "paper")
        assert ended.code == Exit.INVALID
        assert "builtin is 'paper'" in ended.err
        assert "paper-batch-size" in ended.err

    def test_a_file_that_is_not_there_is_said_to_be_none(self, lab: Run) -> None:
        ended = lab("experiment", "submit", "nowhere.yaml")
        assert (ended.code, ended.err) == (Exit.INVALID, "normlab: nowhere.yaml: No such file or directory\n")


class TestLife:
    def test_is_listed_shown_steered_extended_and_deleted(self, lab: Run, file: str) -> None:
        id_ = lab("experiment", "submit", file, "--name", "life", "--json").json["id"]
        assert id_ in lab("experiment", "list", "--search", "life").out
        shown = lab("experiment", "show", id_).out
        assert "2 normalization  batch, group (8)" in shown
        assert "8 queued" in shown
        assert len(lab("jobs", "--experiment", id_, "--json").json) == 8
        assert lab("experiment", "pause", id_).out == f"{id_}  paused  8 paused\n"
        assert lab("experiment", "resume", id_, "--json").json["status"] == "queued"
        assert lab("experiment", "extend", id_, "--seed", "2", "--json").json["jobs"] == 12
        refused = lab("experiment", "delete", id_)
        assert (refused.code, "cancel it first" in refused.err) == (Exit.REFUSED, True)
        assert lab("experiment", "cancel", id_).out == f"{id_}  cancelled  12 cancelled\n"
        assert lab("experiment", "delete", id_).out == f"{id_}  deleted\n"
        assert lab("experiment", "show", id_).code == Exit.REFUSED

    def test_nothing_to_change_is_said(self, lab: Run) -> None:
        ended = lab("experiment", "edit", "experiment_1")
        assert (ended.code, "give --name, --label, --remove-label or --priority" in ended.err) == (Exit.INVALID, True)
        ended = lab("experiment", "extend", "experiment_1")
        assert (ended.code, "--seed" in ended.err) == (Exit.INVALID, True)

    @pytest.mark.parametrize("command", [["experiment", "edit"], ["edit"]])
    def test_is_renamed_and_labelled(self, lab: Run, file: str, command: list[str]) -> None:
        id_ = lab("experiment", "submit", file, "--name", "old", "--json").json["id"]
        change = ["--name", "new", "--label", "study=paper", "--label", "who=ann", "--priority", "3"]
        assert lab(*command, id_, *change).out == f"{id_}  queued  8 queued\n"
        lab(*command, id_[:-1], "--remove-label", "who")
        shown = lab("experiment", "show", id_).out
        assert re.search(r"^name +new", shown, re.M)
        assert re.search(r"^labels +study=paper$", shown, re.M)
        jobs = lab("jobs", "--experiment", id_, "--json").json
        assert [(job["labels"], job["priority"]) for job in jobs] == [({"study": "paper"}, 3)] * 8

    def test_has_no_notes(self, lab: Run) -> None:
        ended = lab("edit", "experiment_1", "--notes", "why")
        assert (ended.code, "--notes: an experiment has none" in ended.err) == (Exit.INVALID, True)

    def test_the_built_in_ones_are_listed(self, lab: Run) -> None:
        assert re.search(
            r"^paper-norms +20 jobs  Table 1 of the paper", lab("experiment", "list", "--builtin").out, re.M
        )

    def test_none_are_said_to_be_none(self, lab: Run) -> None:
        assert lab("experiment", "list", "--search", "no such name").out == "No experiments.\n"


def client_headline(url: str, id_: str) -> str:
    with Client(url) as client:
        return str(client.experiments.results(id_)["headline"])


class TestResults:
    def test_are_a_grid_with_intervals_and_comparisons(self, run: Run, ran: tuple[str, str]) -> None:
        url, id_ = ran
        out = run("--url", url, "results", id_).out
        assert out.splitlines()[0] == client_headline(url, id_)
        assert "Test error (%), after the last epoch, by batch_size" in out
        assert re.search(r"^batch +10\.20 ± 2\.54 \(2\) +12\.30 ± 2\.54 \(2\)$", out, re.M)
        assert re.search(r"^group \(8\) +14\.\d\d ± \d+\.\d\d \(2\) +16\.30 \(1\) 1 failed$", out, re.M)
        assert re.search(r"^2 +batch +group \(8\) +2 +", out, re.M)

    def test_of_all_jobs_need_no_experiment(self, run: Run, ran: tuple[str, str]) -> None:
        url, id_ = ran
        every = run("--url", url, "results", "--json").json
        assert every["cells"] == run("--url", url, "results", id_, "-f", "json").json["cells"]

    def test_answer_another_question(self, run: Run, ran: tuple[str, str]) -> None:
        url, id_ = ran
        arguments = ["--rows", "batch_size", "--columns", "model", "--where", "normalization=batch", "-f", "json"]
        found = run("--url", url, "results", id_, "--statistic", "best", "--confidence", "0.9", *arguments).json
        assert [value["label"] for value in found["rows"]["values"]] == ["2", "32"]
        assert (found["statistic"], found["confidence"]) == ("best", 0.9)
        assert [cell["n"] for cell in found["cells"]] == [2, 2]

    def test_are_written_in_each_format(self, run: Run, ran: tuple[str, str], tmp_path: Path) -> None:
        url, id_ = ran
        (table := tmp_path / "cells.parquet"), (text := tmp_path / "table.txt")
        run("--url", url, "results", id_, "--format", "parquet", "--output", str(table))
        rows = pyarrow.parquet.read_table(table).to_pylist()
        assert (rows[0]["row"], rows[0]["column"], rows[0]["n"]) == ("batch", "2", 2)
        run("--url", url, "results", id_, "--output", str(text))
        assert "Test error (%)" in text.read_text()
        markdown = tmp_path / "table.md"
        run("--url", url, "results", id_, "--format", "markdown", "--output", str(markdown))
        assert markdown.read_text().startswith(
            "# ran\n\n## Test error (%) by normalization and batch\\_size\n\nNo comparison can be tested"
        )
        latex = run("--url", url, "results", id_, "--format", "latex", "--statistic", "best").out
        assert r"batch & $\mathbf{10.20} \pm 2.54$ (2) & $\mathbf{12.30} \pm 2.54$ (2) \\" in latex
        assert "best epoch (optimistic: chosen on the test set)" in latex
        values = tmp_path / "values.csv"
        arguments = ["--format", "csv", "--table", "observations", "--output", str(values)]
        run("--url", url, "results", id_, *arguments)
        assert len(list(csv.DictReader(values.read_text().splitlines()))) == 8

    def test_go_to_standard_output_without_a_file(self, run: Run, ran: tuple[str, str]) -> None:
        url, id_ = ran
        lines = run("--url", url, "results", id_, "--format", "csv").out.splitlines()
        assert lines[0].startswith("row,column,n,mean")
        assert len(lines) == 5
        assert run("--url", url, "results", id_, "--format", "json").json["experiment"] == id_

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--where", "x"], "--where is 'x': give it as FIELD=LABEL"),
            (["--rows", "lr"], "rows is 'lr'"),
            (["--format", "xml"], "Invalid value for '--format'"),
        ],
    )
    def test_that_cannot_be_say_why(self, run: Run, ran: tuple[str, str], arguments: list[str], sentence: str) -> None:
        ended = run("--url", ran[0], "results", ran[1], *arguments)
        assert ended.code == Exit.INVALID
        assert sentence in ended.err


EXPERIMENT: Json = {
    "id": "experiment_1",
    "name": "one",
    "title": "one [synthetic]",
    "status": "running",
    "progress": 0.25,
    "eta_s": 60.0,
    "counts": {"running": 1, "queued": 3},
    "tuning": None,
}
DONE = EXPERIMENT | {"status": "finished", "progress": 1.0, "eta_s": None, "counts": {"succeeded": 4}}
CELL: Json = {"row": "batch", "column": "2", "n": 2, "mean": 0.5, "interval": [0.4, 0.6], "counts": {"succeeded": 2}}
RESULTS: Json = {
    "headline": "There are no comparisons yet.",
    "metric": "test_error",
    "statistic": "final",
    "statistic_title": "after the last epoch",
    "stage": None,
    "tuning": None,
    "beside": [],
    "datasets": ["synthetic"],
    "rows": {"field": "normalization", "values": [{"label": "batch", "value": {}}]},
    "columns": {"field": "batch_size", "values": [{"label": "2", "value": 2}, {"label": "4", "value": 4}]},
    "cells": [CELL],
    "comparisons": [],
    "warnings": [{"code": "x", "detail": "Beware.", "jobs": [], "severity": "warning"}],
}


@pytest.fixture
def watched(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A service whose experiment has ended at the second request."""
    monkeypatch.setattr(experiments, "POLL_INTERVAL_S", 0.0)
    service.on("GET", "/v1/experiments/experiment_1", Answer(EXPERIMENT), Answer(EXPERIMENT), Answer(DONE))
    service.on("GET", "/v1/experiments/experiment_1/results", Answer(RESULTS))
    return service


class TestWatch:
    def test_prints_a_line_for_each_change_and_the_grid_at_the_end(self, run: Run, watched: StandIn) -> None:
        ended = run("--url", watched.url, "experiment", "watch", "experiment_1")
        lines = ended.out.splitlines()
        assert lines[:2] == ["running, 25 %, 1:00 left: 1 running, 3 queued", "finished, 100 %: 4 succeeded"]
        assert "50.00 ± 10.00 (2)" in ended.out
        assert "Test error (%), after the last epoch, by batch_size, on synthetic" in ended.out
        assert ended.out.endswith("warning: Beware.\n")
        assert ended.code == Exit.OK

    def test_prints_json_for_programs(self, run: Run, watched: StandIn) -> None:
        lines = run("--url", watched.url, "experiment", "watch", "experiment_1", "--json").out.splitlines()
        assert [json.loads(line)["status"] for line in lines] == ["running", "finished"]

    def test_follows_a_submission(self, run: Run, watched: StandIn) -> None:
        watched.on("POST", "/v1/experiments", Answer(EXPERIMENT | {"jobs": 4}, 201))
        ended = run("--url", watched.url, "experiment", "submit", "labml", "--watch")
        assert ended.out.startswith("experiment_1  4 jobs  one [synthetic]\nrunning, ")
        assert watched.requests[0].body == {"builtin": "labml"}

    def test_ends_with_1_unless_every_job_succeeded(self, run: Run, service: StandIn) -> None:
        service.on("GET", "/v1/experiments/experiment_1", Answer(DONE | {"counts": {"succeeded": 3, "failed": 1}}))
        service.on("GET", "/v1/experiments/experiment_1/results", Answer(RESULTS))
        assert run("--url", service.url, "experiment", "watch", "experiment_1").code == Exit.FAILED

    def test_fills_a_grid_on_a_terminal(self, watched: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = io.StringIO()
        terminal = Console(file=screen, force_terminal=True, width=100)
        monkeypatch.setattr(experiments, "console", lambda: terminal)
        with Client(watched.url) as client:
            experiments.follow(client, "experiment_1")
        assert "50.00 ± 10.00" in screen.getvalue()
        assert "finished" in screen.getvalue()

    def test_interrupted_leaves_the_jobs_running_and_says_so(
        self, run: Run, watched: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_seconds: float) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(time, "sleep", interrupt)
        ended = run("--url", watched.url, "experiment", "watch", "experiment_1")
        assert ended.code == Exit.INTERRUPTED
        assert "`normlab experiment cancel experiment_1` stops them" in ended.err


def test_a_cell_counts_jobs_that_have_not_ended() -> None:
    number = Number("test_error")
    waiting = CELL | {"mean": None, "counts": {"queued": 2, "running": 1}}
    assert cell_text(waiting, number).plain == "2 wait 1 run"
    assert cell_text(CELL | {"interval": None, "n": 1}, number).plain == "50.00 (1)"
    assert cell_text(CELL | {"counts": {"succeeded": 2, "failed": 1}}, number).plain == "50.00 ± 10.00 (2) 1 failed"
    assert cell_text(None, number).plain == "–"


@pytest.mark.parametrize(
    ("resolved", "needed", "text"),
    [
        (True, None, "yes"),
        (False, None, "no"),
        (False, 1, "no, 1 more seed might"),
        (False, 12, "no, 12 more seeds might"),
    ],
)
def test_a_difference_that_is_not_resolved_says_what_might(resolved: bool, needed: int | None, text: str) -> None:
    assert resolved_text({"resolved": resolved, "seeds_needed": needed}).plain == text


class TestCompare:
    def test_shows_a_row_for_each_row_of_each_experiment(
        self, run: Run, ran: tuple[str, str], file: str, tmp_path: Path
    ) -> None:
        url, id_ = ran
        other = run("--url", url, "experiment", "submit", file, "--name", "other", "--json").json["id"]
        out = run("--url", url, "compare", id_, other).out
        assert "Test error (%), after the last epoch, by batch size" in out
        assert re.search(r"^batch +ran +10\.20 ± 2\.54 \(2\) +12\.30 ± 2\.54 \(2\)$", out, re.M)
        assert re.search(r"^batch +other +2 wait +2 wait$", out, re.M)
        found = run("--url", url, "compare", id_, other, "--json").json
        assert [one["experiment"] for one in found["experiments"]] == [id_, other]
        lines = run("--url", url, "compare", id_, other, "-f", "csv", "--table", "differences").out.splitlines()
        assert lines[0].startswith("row,column,experiment_a,experiment_b,n,difference")
        latex = run("--url", url, "compare", id_, other, "--format", "latex").out
        assert r"batch & ran & $10.20 \pm 2.54$ (2)" in latex
        run("--url", url, "compare", id_, other, "--output", str(tmp_path / "table.txt"))
        assert "Test error (%)" in (tmp_path / "table.txt").read_text()
        run("--url", url, "experiment", "cancel", other)
        run("--url", url, "experiment", "delete", other)

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [([], "give the ids of two or more"), (["x", "--where", "y"], "give it as FIELD=LABEL")],
    )
    def test_that_cannot_be_says_why(self, run: Run, ran: tuple[str, str], arguments: list[str], sentence: str) -> None:
        ended = run("--url", ran[0], "compare", ran[1], *arguments)
        assert ended.code == Exit.INVALID
        assert sentence in ended.err
