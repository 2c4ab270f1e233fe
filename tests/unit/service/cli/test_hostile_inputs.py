"""Inputs that no command can use: each ends with exit code 2 and a sentence, and never with a traceback."""

import io
import os
import sys
from pathlib import Path

import pytest

from service.cli.exits import Exit
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, StandIn, a_job

GRID = "grid: {batch_size: [2], normalization: [{type: batch}]}\n"
EXPERIMENTS: dict[str, tuple[str | bytes, str]] = {
    "a number that is none": ("base: {epochs: .nan}", "/base/epochs: the value is nan: give a finite number"),
    "an infinite number": ("grid: {batch_size: [2, -.inf]}", "/grid/batch_size/1: the value is -inf"),
    "an anchor that contains itself": ("base: &b\n  labels: *b", "/base/labels: the value contains itself"),
    "a list that contains itself": ("grid: {seed: &s [0, *s]}", "/grid/seed/1: the value contains itself"),
    "references that multiply": (
        "a0: &a0 [0, 0]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
        "the request has more than 1,048,576 values",
    ),
    "a date as a name is text, as a size not": (
        "name: 2026-01-02\nbase: {epochs: 2026-01-02}\n" + GRID,
        "/base/epochs: epochs is '2026-01-02'",
    ),
    "a date that is none": ("base: {epochs: 2026-99-99}\n" + GRID, "/base/epochs: epochs is '2026-99-99'"),
    "bytes": ("name: !!binary aGk=", "is not YAML or JSON: could not determine a constructor for the tag"),
    "a set": ("base: !!set {a, b}", "is not YAML or JSON: could not determine a constructor"),
    "an object of Python": ("base: !!python/object:os.system {}", "is not YAML or JSON"),
    "a number that is a word": ("base: {epochs: !!int many}", "is not YAML or JSON: invalid literal for int()"),
    "a truth that is a word": ("base: {affine: !!bool maybe}", "is not YAML or JSON"),
    "nothing where a number is": ("base: {epochs: !!int ''}", "is not YAML or JSON"),
    "a number without end": ("base: {epochs: " + "9" * 5000 + "}", "is not YAML or JSON"),
    "lists without end": ("[" * 5000, "is not YAML or JSON: it is nested too deeply"),
    "a key that is a list": ("? [a, b]\n: c", "is not YAML or JSON"),
    "a key that is a fraction": ("base: {1.5: 2}", "/base: the key is 1.5: give a text"),
    "truths as batch sizes": (
        "grid: {batch_size: [yes, 2], normalization: [{type: batch}]}",
        "/grid/batch_size/0: batch_size is true: input should be a valid integer",
    ),
    "a truth as a number of epochs": ("base: {epochs: true}\n" + GRID, "/base/epochs: epochs is true"),
    "a truth as a learning rate": (
        "base: {optimizer: {type: sgd, learning_rate: on}}\n" + GRID,
        "/base/optimizer/learning_rate: learning_rate is true: input should be a valid number",
    ),
    "truths as betas": (
        "base: {optimizer: {type: adam, betas: [false, 0.9]}}\n" + GRID,
        "/base/optimizer/betas/0: betas is false",
    ),
    "a truth as a number of seeds": ("seeds: {min: true, max: 3}\n" + GRID, "/seeds/min: min is true"),
    "a truth as a priority": ("priority: true\n" + GRID, "/priority: priority is true"),
    "a truth as a budget": ("budget: yes\n" + GRID, "/budget: budget is true"),
    "Latin-1": ("# café\n".encode("latin-1") + GRID.encode(), "is not text in UTF-8 (line 1: "),
    "UTF-16 that is cut": (GRID.encode("utf-16")[:-1], "is not text in UTF-16-LE"),
    "UTF-16 without its mark": (GRID.encode("utf-16-le"), "is not YAML or JSON"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0", "is not text in UTF-8"),
    "characters that control": ("name: \x1b[31m", "is not YAML or JSON"),
    "half a character": (
        '{"name": "\\ud800", "grid": {}}',
        "/name: the value is '\\ud800', which is not valid",
    ),
    "nothing": ("", "does not contain an object: give an experiment"),
    "a text": ("hello", "does not contain an object"),
}
JOBS: dict[str, tuple[str | bytes, str]] = {
    "a number that is none": ('{"batch_size": NaN}', "/batch_size: the value is nan: give a finite number"),
    "an infinite number": ('{"optimizer": {"learning_rate": 1e999}}', "/optimizer/learning_rate: the value is inf"),
    "a number without end": ('{"seed": ' + "9" * 5000 + "}", "is not JSON"),
    "lists without end": ("[" * 100_000, "is not JSON: it is nested too deeply"),
    "Latin-1": ('{"name": "é"}'.encode("latin-1"), "is not text in UTF-8 (line 1"),
    "a truth as a batch size": ('{"batch_size": true, "normalization": {"type": "batch"}}', "batch_size is true"),
    "a truth as a number of groups": (
        '{"batch_size": 2, "normalization": {"type": "group", "num_groups": true}}',
        "/normalization/num_groups: num_groups is true",
    ),
    "half a character": ('{"labels": {"a": "\\udfff"}}', "/labels/a: the value is '\\udfff'"),
    "half a character in a key": ('{"labels": {"\\udfff": "a"}}', "/labels: the key is '\\udfff'"),
}
SUBMIT = ["submit", "-n", "batch", "-b", "2"]
ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "a file that is not there": (
        ["experiment", "submit", "{folder}/none.yaml"],
        "none.yaml: No such file",
    ),
    "a folder as an experiment": (["experiment", "submit", "{folder}"], "{folder}: Is a directory"),
    "a folder as a job": (["submit", "{folder}"], "{folder}: Is a directory"),
    "a file as a folder": (["submit", "{file}/job.json"], "job.json: Not a directory"),
    "a name that is too long": (["submit", "n" * 300], "File name too long"),
    "a long name of an experiment": (["experiment", "submit", "n" * 300], "builtin is 'nnn"),
    "a link to itself": (["submit", "{folder}/loop"], "loop: Too many levels of symbolic links"),
    "a folder as a bundle": (["experiment", "import", "{folder}"], "{folder}: Is a directory"),
    "a bundle that is not there": (["experiment", "import", "{folder}/none.tar"], "none.tar: No such file"),
    "a learning rate that is none": ([*SUBMIT, "--learning-rate", "nan"], "--learning-rate: the value is nan"),
    "a name that is no Unicode": ([*SUBMIT, "--name", "\udce9"], "--name: the value is '\\udce9'"),
    "a key that is not ASCII": ([*SUBMIT, "--idempotency-key", "é"], "--idempotency-key has characters other than"),
    "a key of two lines": ([*SUBMIT, "--idempotency-key", "a\nb"], "--idempotency-key has characters other than"),
    "a search that is no Unicode": (
        ["jobs", "--search", "\udce9"],
        "--search is '\\udce9', which is not valid Unicode",
    ),
    "a label that is no Unicode": (["jobs", "--label", "a=\udce9"], "--label is 'a:\\udce9', which is not valid"),
    "a number of seeds without end": (["experiment", "submit", "labml", "--seeds", "9" * 12], "--seeds"),
    "a number of seeds as a truth": (["experiment", "submit", "labml", "--seeds", "yes"], "--seeds"),
    "a confidence that is none": (["results", "--confidence", "nan"], "confidence"),
    "an empty id": (["show", ""], "the id is '': give one that the list of jobs has"),
    "an id that is a folder": (["cancel", ".."], "the id is '..'"),
    "an empty id of an experiment": (["experiment", "show", ""], "the id is '': give one that the list of experiments"),
    "an empty id of a checkpoint": (["download", ""], "the id is ''"),
    "a checkpoint without its name": (["download", "job_" + "0" * 26 + "/"], "there is nothing after the slash"),
    "results of nothing": (["results", ""], "the id is ''"),
    "an address of MLflow": (["export", "mlflow", "--tracking-uri", "http://["], "--tracking-uri is 'http://['"),
    "a proxy that is none": (["--url", "http://example.org", "jobs"], "HTTP_PROXY, HTTPS_PROXY or ALL_PROXY cannot"),
}
URLS = [
    "http://[",
    "http://[::1",
    "http://host:99999",
    "http://host:port",
    "http://host:-1",
    "http://" + "a" * 300,
    "http://a..b",
    "http://☃.net",
    "http://host\n",
    "//host",
    "host:8000",
    "localhost",
    "ftp://host",
    "http://",
    " ",
]


def write(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


class TestFiles:
    @pytest.mark.parametrize("kind", EXPERIMENTS)
    def test_of_experiments(self, lab: Run, tmp_path: Path, kind: str) -> None:
        content, sentence = EXPERIMENTS[kind]
        ended = lab("experiment", "submit", write(tmp_path / "e.yaml", content))
        assert sentence in ended.err
        assert (ended.code, ended.out) == (Exit.INVALID, "")

    @pytest.mark.parametrize("kind", JOBS)
    def test_of_jobs(self, lab: Run, tmp_path: Path, kind: str) -> None:
        content, sentence = JOBS[kind]
        ended = lab("submit", write(tmp_path / "j.json", content))
        assert sentence in ended.err
        assert (ended.code, ended.out) == (Exit.INVALID, "")

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
    def test_in_every_encoding_that_says_what_it_is_are_read(self, lab: Run, tmp_path: Path, encoding: str) -> None:
        job = '{"name": "é☃", "batch_size": 2, "normalization": {"type": "batch"}}'
        assert lab("submit", write(tmp_path / "j.json", job.encode(encoding)), "--json").json["name"] == "é☃"
        experiment = lab("experiment", "submit", write(tmp_path / "e", f"name: é☃\n{GRID}".encode(encoding)), "--json")
        assert experiment.json["name"] == "é☃"

    def test_with_a_date_as_a_name_keep_its_text(self, lab: Run, tmp_path: Path) -> None:
        path = write(tmp_path / "e.yaml", f"name: 2026-01-02\n{GRID}")
        assert lab("experiment", "submit", path, "--json").json["name"] == "2026-01-02"

    def test_on_standard_input_are_read_alike(self, lab: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        for content in (b"\xe9", b""):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
            ended = lab("submit", "-")
            assert (ended.code, "standard input is not" in ended.err) == (Exit.INVALID, True)

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
    def test_that_may_not_be_read_are_named(self, run: Run, tmp_path: Path) -> None:
        path = write(tmp_path / "j.json", "{}")
        Path(path).chmod(0)
        assert run("submit", path).err == f"normlab: {path}: Permission denied\n"


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments(lab: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    file = write(tmp_path / "file", "")
    if "proxy" in kind:
        monkeypatch.setenv("HTTP_PROXY", "garbage://[")
    arguments, sentence = ARGUMENTS[kind]
    ended = lab(*(argument.format(folder=tmp_path, file=file) for argument in arguments))
    assert sentence.format(folder=tmp_path) in ended.err
    assert (ended.code, ended.out) == (Exit.INVALID, "")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("by", ["option", "variable"])
def test_addresses(run: Run, monkeypatch: pytest.MonkeyPatch, url: str, by: str) -> None:
    monkeypatch.setenv("NORMLAB_URL", url if by == "variable" else "")
    ended = run(*(["--url", url] if by == "option" else []), "jobs")
    assert ended.err.startswith(f"normlab: the address of the service is {url!r}")
    assert ended.err.endswith(": give one like http://127.0.0.1:8000\n")
    assert (ended.code, ended.out) == (Exit.INVALID, "")


@pytest.mark.parametrize("token", ["é", "a\nb", "a\r"])
def test_tokens(run: Run, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("NORMLAB_TOKEN", token)
    ended = run("--url", "http://127.0.0.1:1", "jobs")
    assert ended.err == "normlab: Authorization (the token) has characters other than printable ASCII\n"
    assert ended.code == Exit.INVALID


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NORMLAB_PORT", "99999"),
        ("NORMLAB_PORT", "yes"),
        ("NORMLAB_API_TOKENS_FILE", "/none/such"),
        ("NORMLAB_API_TOKENS_FILE", "/"),
        ("NORMLAB_GPUS_PER_WORKER", "nan"),
        ("NORMLAB_MAX_WORKERS", "0"),
    ],
)
def test_settings(run: Run, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    ended = run("doctor")
    assert name in ended.err
    assert (ended.code, ended.out) == (Exit.INVALID, "")


class TestOutputs:
    """Paths that a command cannot write to."""

    COMMANDS = (
        ["results", "experiment_1", "--format", "csv", "-o"],
        ["experiment", "bundle", "experiment_1", "-o"],
        ["experiment", "report", "experiment_1", "-o"],
        ["download", "job_1", "-o"],
    )

    @pytest.fixture
    def answering(self, service: StandIn) -> StandIn:
        sha256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
        file = {
            "name": "model.safetensors",
            "size": 7,
            "sha256": sha256,
            "url": "/v1/checkpoints/checkpoint_1/files/model.safetensors",
        }
        found = {"id": "checkpoint_1", "epoch": 2, "step": 20, "metrics": {}, "best": True, "files": [file]}
        service.on("GET", "/v1/jobs/job_1/checkpoints/best", Answer(found))
        service.on("GET", "/v1/checkpoints/checkpoint_1", Answer(found))
        service.on("GET", "/v1/checkpoints/checkpoint_1/files/model.safetensors", Answer(b"content"))
        for part in ("results", "bundle", "report"):
            service.on("GET", f"/v1/experiments/experiment_1/{part}", Answer(b"content"))
        return service

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0] + command[1])
    @pytest.mark.parametrize("where", ["none/w.html", "file.html/w.html", "loop.html", "locked.html/w.html"])
    def test_are_named(self, run: Run, answering: StandIn, tmp_path: Path, command: list[str], where: str) -> None:
        (tmp_path / "loop.html").symlink_to("loop.html")
        (tmp_path / "file.html").touch()
        (tmp_path / "locked.html").mkdir(mode=0o500)
        if where.startswith("locked") and os.getuid() == 0:
            pytest.skip("root may write everywhere")
        ended = run("--url", answering.url, *command, str(tmp_path / where))
        assert str(tmp_path / where) in ended.err
        assert (ended.code, ended.out) == (Exit.INVALID, "")

    def test_a_folder_is_no_report(self, run: Run, answering: StandIn, tmp_path: Path) -> None:
        (tmp_path / "r.html").mkdir()
        ended = run("--url", answering.url, "experiment", "report", "experiment_1", "-o", str(tmp_path / "r.html"))
        assert (ended.code, ended.err) == (Exit.INVALID, f"normlab: {tmp_path / 'r.html'}: Is a directory\n")

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0] + command[1])
    def test_that_are_links_are_written_through(
        self, run: Run, answering: StandIn, tmp_path: Path, command: list[str]
    ) -> None:
        (tmp_path / "link.html").symlink_to("there")
        assert run("--url", answering.url, *command, str(tmp_path / "link.html")).code == Exit.OK
        assert (tmp_path / "there").read_bytes() == b"content"
        assert (tmp_path / "link.html").is_symlink()


def test_more_jobs_than_there_can_be_are_all(run: Run, service: StandIn) -> None:
    service.on("GET", "/v1/jobs", Answer({"data": [a_job()], "next_cursor": None}))
    assert len(run("--url", service.url, "jobs", "--limit", "9" * 30, "--json").json) == 1
