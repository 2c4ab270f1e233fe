"""The commands report, figure, bundle and import, with the real API."""

import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from service.cli.exits import Exit
from service.client import ApiError, Client
from tests.unit.service.conftest import Run
from tests.unit.service.stand_in import Answer, StandIn

Ran = tuple[str, str]


def test_a_report_is_a_web_page(run: Run, ran: Ran, tmp_path: Path) -> None:
    url, id_ = ran
    target = tmp_path / "report.html"
    ended = run("--url", url, "experiment", "report", id_, "--output", str(target))

    assert (ended.code, ended.out) == (Exit.OK, f"{target}\n")
    page = target.read_text()
    assert "<h1>ran</h1>" in page
    assert "<svg" in page
    assert "the loss is not finite" not in page
    assert page.count("succeeded") == 7
    assert "normlab" in page


def test_a_report_is_markdown_with_its_figure_beside_it(run: Run, ran: Ran, tmp_path: Path) -> None:
    url, id_ = ran
    run("--url", url, "experiment", "report", id_, "-o", str(tmp_path / "r.md"), "--statistic", "best")

    text = (tmp_path / "r.md").read_text()
    assert "](r.svg)" in text
    assert "best epoch (optimistic: chosen on the test set)" in text
    assert ElementTree.parse(tmp_path / "r.svg").getroot().tag.endswith("svg")


def test_a_report_is_named_after_its_experiment(
    run: Run, ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--url", ran[0], "experiment", "report", ran[1])

    assert [path.name for path in tmp_path.iterdir()] == [f"{ran[1]}.html"]


def test_another_kind_of_report_is_refused(run: Run, ran: Ran) -> None:
    ended = run("--url", ran[0], "experiment", "report", ran[1], "-o", "report.pdf")

    assert ended.code == Exit.INVALID
    assert ended.err == "normlab: --output is report.pdf: give a name that ends in .html or .md\n"


def test_a_figure_is_a_file_of_the_kind_that_its_name_says(run: Run, ran: Ran, tmp_path: Path) -> None:
    url, id_ = ran
    target = tmp_path / "fig.pdf"
    ended = run("--url", url, "experiment", "figure", id_, "-o", str(target), "--title", "--metric", "test_error")

    assert (ended.code, ended.out) == (Exit.OK, f"{target}\n")
    assert target.read_bytes().startswith(b"%PDF")
    run("--url", url, "experiment", "figure", id_, "-o", str(tmp_path / "fig.svg"), "--width", "100", "--log-y")
    root = ElementTree.parse(tmp_path / "fig.svg").getroot()
    assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(100 / 25.4 * 72, abs=0.01)
    run("--url", url, "experiment", "figure", id_, "-o", str(tmp_path / "fig.csv"), "--statistic", "best")
    assert "optimistic: chosen on the test set" in (tmp_path / "fig.csv").read_text()
    curves = ["experiment", "figure", id_, "-o", str(tmp_path / "curves.csv"), "--curves", "--spread", "each"]
    run("--url", url, *curves)
    assert "batch at 2,0.0004,10.4,," in (tmp_path / "curves.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-o", "fig.gif"], "--output is fig.gif: give a name that ends in .pdf, .svg, .png, .csv"),
        (["--spread", "each"], "--spread is 'each': it does not apply to results"),
        (["--curves", "--rows", "model"], "--rows is 'model': it does not apply to curves"),
        (["--width", "10"], "Invalid value for '--width'"),
        (["--metric", "accuracy"], "metric is 'accuracy'"),
    ],
)
def test_a_figure_that_cannot_be_is_refused(run: Run, ran: Ran, arguments: list[str], sentence: str) -> None:
    ended = run("--url", ran[0], "experiment", "figure", ran[1], *arguments)
    assert ended.code == Exit.INVALID
    assert sentence in ended.err


def test_a_bundle_goes_from_one_installation_to_another(run: Run, ran: Ran, api: str, tmp_path: Path) -> None:
    url, id_ = ran
    ended = run("--url", url, "experiment", "bundle", id_, "--output", str(tmp_path))
    path = tmp_path / f"{id_}.tar"
    assert ended.out.startswith(str(path))
    with tarfile.open(path) as tar:
        assert "results.json" in tar.getnames()
    assert list(tmp_path.iterdir()) == [path]

    taken = run("--url", api, "experiment", "import", str(path))
    assert taken.out == f"{id_}  8 jobs  ran\n"
    again = run("--url", api, "experiment", "import", str(path), "--json")
    assert again.json["id"] == id_
    with Client(url) as here, Client(api) as there:
        assert there.experiments.results(id_) == here.experiments.results(id_)


def test_what_is_no_bundle_is_refused_with_a_sentence(run: Run, api: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    ended = run("--url", api, "experiment", "import", str(tmp_path / "text"))
    assert ended.code == Exit.INVALID
    assert "Nothing was imported: this is not a bundle" in ended.err

    ended = run("--url", api, "experiment", "import", str(tmp_path / "nothing"))
    assert (ended.code, ended.err) == (Exit.INVALID, f"normlab: {tmp_path / 'nothing'}: No such file or directory\n")


def test_a_bundle_of_nothing_leaves_no_file(run: Run, api: str, tmp_path: Path) -> None:
    ended = run("--url", api, "experiment", "bundle", "experiment_0000", "-o", str(tmp_path))
    assert ended.code == Exit.REFUSED
    assert list(tmp_path.iterdir()) == []

    ended = run("--url", api, "experiment", "bundle", "experiment_0000", "-o", str(tmp_path / "no" / "where"))
    assert "does not exist" in ended.err


def test_the_example_is_imported_once(run: Run, api: str) -> None:
    first, again = (run("--url", api, "experiment", "import", "--example", "--json") for _ in range(2))
    assert (first.code, again.code) == (0, 0), first.err
    assert again.json["id"] == first.json["id"]
    assert run("--url", api, "results", first.json["id"]).code == 0


@pytest.mark.parametrize("arguments", [[], ["bundle.tar", "--example"]])
def test_an_import_needs_a_file_or_the_example(run: Run, arguments: list[str]) -> None:
    ended = run("experiment", "import", *arguments)
    assert ended.code == Exit.INVALID
    assert "give either the path of a bundle or --example" in ended.err


def test_a_bundle_is_downloaded_and_uploaded_again_after_an_outage(service: StandIn, tmp_path: Path) -> None:
    away = Answer({"status": 503, "title": "Service Unavailable"}, status=503)
    service.on("GET", "/v1/experiments/e/bundle", away, Answer(b"bundle"))
    service.on("POST", "/v1/bundles", away, Answer({"id": "e"}, status=201))
    with Client(service.url, backoff_s=0.01) as client:
        path = client.experiments.bundle("e", tmp_path / "b.tar")
        assert path.read_bytes() == b"bundle"
        assert client.experiments.import_bundle(path) == {"id": "e"}
    assert [request.body for request in service.requests if request.method == "POST"] == [b"bundle", b"bundle"]


def test_a_refused_bundle_raises(service: StandIn, tmp_path: Path) -> None:
    service.on("GET", "/v1/experiments/e/bundle", Answer({"status": 409, "title": "Conflict"}, status=409))
    with Client(service.url) as client, pytest.raises(ApiError):
        client.experiments.bundle("e", tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []
