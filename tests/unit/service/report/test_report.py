"""A report agrees with the results, and names in it are never interpreted as markup."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from service.report import as_html, as_markdown, compose, tables
from service.report.document import DataTable, Document, Listing, Paragraph, Section
from tests.unit.service.report.tabulated import HOSTILE, VALUES, results_of

VERSIONS = {"normlab": "0.1.0"}


def experiment(**changed: Any) -> dict[str, Any]:
    request = {"base": {"recipe": "wu-he"}, "grid": {"batch_size": [32, 2]}, "seeds": None}
    return {
        "id": "exp_1",
        "name": "the paper's",
        "title": "the paper's [synthetic]",
        "budget": 1.0,
        "request": request,
    } | changed


def job(job_id: str, **changed: Any) -> dict[str, Any]:
    attempt = {
        "device": "cpu",
        "workers": [{"worker": "worker-1", "node": "node-1"}],
        "versions": {"torch": "2.13.0", "normlab": "0.1.0"},
        "started_at": "2026-11-23T12:00:00Z",
    }
    return {"id": job_id, "status": "succeeded", "spec": {"seed": 0}, "attempts": [attempt]} | changed


@pytest.fixture
def report() -> Callable[..., str]:
    def make(results: dict[str, Any] | None = None, **changed: Any) -> str:
        document = compose(experiment(**changed), results or results_of(VALUES), [job("job_batch_2_0")], VERSIONS)
        return as_markdown(document)

    return make


def test_the_findings_begin_with_the_headline_of_the_results(report: Any) -> None:
    found = report(results_of(VALUES, headline="It is so.")).split("## Findings")[1].split("##")[0]
    assert found.startswith("\n\nIt is so.\n\n1 of 2 comparisons is not significant")
    assert "The effect of normalization depends on batch\\_size. From 2 to 32 these differences" in found
    assert found.rstrip().endswith("Images: synthetic.")
    assert "\n\nIt is so.\n\nImages: synthetic." in as_markdown(tables(results_of(VALUES, headline="It is so.")))


def test_every_significant_difference_is_said_with_its_interval_and_p(report: Any) -> None:
    values = VALUES | {("layer", "2"): [0.50, 0.512, 0.531], ("layer", "32"): [0.1, 0.101, 0.11]}
    found = report(results_of(values)).split("## Findings")[1].split("##")[0]
    assert "- At batch size 2, layer has 38.93 percentage points more test error than group (95 % interval" in found
    assert "n = 3)." in found
    assert len(re.findall("^- At batch size 2", found, re.MULTILINE)) == 3


def test_the_title_the_findings_and_the_figure_name_the_dataset(report: Any) -> None:
    text = report()
    assert text.startswith("# the paper's \\[synthetic\\]\n")
    assert "Images: synthetic." in text.split("## Findings")[1].split("##")[0]


def test_with_one_seed_there_are_no_intervals(report: Any) -> None:
    text = report(results_of({place: values[:1] for place, values in VALUES.items()}))

    assert "| batch | 10.00 | 30.00 |" in text
    assert "One seed in each cell, so no intervals." in text


def test_the_table_has_means_half_widths_and_n_in_per_cent(report: Any) -> None:
    # The t quantile for 2 degrees of freedom is 4.302653; sd 1 and n 3 make a half width of 2.484.
    text = report()
    assert "| batch | 11.00 ± 2.48 | 31.33 ± 3.79 |" in text
    assert "3 seeds in each cell." in text
    text = report(results_of(VALUES | {("group", "2"): [0.12]}))
    assert "| batch | 11.00 ± 2.48 (n = 3) | 31.33 ± 3.79 (n = 3) |" in text
    assert "12.00 (n = 1)" in text


def test_every_comparison_has_its_row(report: Any) -> None:
    table = report().split("## Pairwise comparisons\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0] == "| batch\\_size | a | b | n | a - b | interval | p | adjusted p | significant | more seeds |"
    assert [row.split(" | ")[0] for row in table[2:]] == ["| 32", "| 2"]
    assert table[3].startswith("| 2 | batch | group | 3 | +18.83 | +")
    assert {row.count(" | ") for row in table} == {9}


def test_a_cell_without_a_value_is_a_dash(report: Any) -> None:
    results = results_of(VALUES)
    results["cells"] = [cell for cell in results["cells"] if (cell["row"], cell["column"]) != ("group", "2")]

    assert re.search(r"\| group \| 11\.17 ± [\d.]+ \| – \|", report(results))


def test_a_metric_that_is_no_error_keeps_its_unit(report: Any) -> None:
    text = report(results_of(VALUES, metric="images_per_s", evaluated_on="train"))

    assert "## Images per second by normalization and batch\\_size" in text
    assert "| batch | 0.11 ± 0.02484 |" in text


def test_it_says_how_to_repeat_it(report: Any) -> None:
    weights = [{"files": [{"name": "model.safetensors", "sha256": "ab" * 32}]}]
    jobs = [job("job_batch_2_0", checkpoints=weights)]
    text = as_markdown(compose(experiment(budget=0.25), results_of(VALUES), jobs, VERSIONS))

    assert '"recipe": "wu-he"' in text
    assert "Budget 0.25" in text
    assert "cpu on node-1: 1 attempts" in text
    assert "trained with normlab 0.1.0, torch 2.13.0" in text
    assert f"| {'ab' * 32} | 0 | 30.00 % |" in text
    assert "Holm's procedure (1979) over all 2 comparisons" in text


def test_assumptions_and_confounds_are_apart(report: Any) -> None:
    about_the_table = {"code": "unequal_seeds", "detail": "Cells have 2 and 3 seeds.", "jobs": []}
    confound = {"code": "unequal_optimizer_steps", "detail": "The jobs take unequal numbers of steps.", "jobs": []}
    text = report(results_of(VALUES, warnings=[confound, about_the_table]))
    violated = text.split("## Violated assumptions\n\n")[1].split("## ")[0]
    assert violated.strip() == "- Cells have 2 and 3 seeds. (unequal\\_seeds)"
    assert "unequal numbers of steps" in text.split("## Possible confounds\n\n")[1].split("## ")[0]
    only = report(results_of(VALUES, warnings=[confound]))
    assert "Violated assumptions" not in only


def test_warnings_and_the_sequential_procedure_are_in_it(report: Any) -> None:
    warning = {"code": "unequal_optimizer_steps", "detail": "The jobs take unequal numbers of steps.", "jobs": []}
    sequential = {"sequential": {"procedure": "At each interim analysis."}, "interim_analyses": [3, 10]}
    text = report(results_of(VALUES, warnings=[warning], **sequential))

    assert "- The jobs take unequal numbers of steps. (unequal\\_optimizer\\_steps)" in text
    assert "- At each interim analysis." in text
    assert "the two-sided 97.5 % interval of the mean" in text


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_name_is_text_in_html_and_in_markdown() -> None:
    document = Document(
        HOSTILE, [Section(HOSTILE, [Paragraph(HOSTILE), DataTable([HOSTILE], [[HOSTILE]]), Listing(HOSTILE)])]
    )
    read = Elements()
    read.feed(as_html(document))
    plain = as_html(Document("t", [Section("s", [Paragraph("p"), DataTable(["h"], [["c"]]), Listing("l")])]))
    expected = Elements()
    expected.feed(plain)

    assert read.tags == expected.tags
    assert read.text.count(HOSTILE) == 7
    markdown = as_markdown(document).split("```")[0]
    assert "<script>" not in markdown.replace("\\<script\\>", "")
    assert len(re.findall(r"(?<!\\)\|", markdown)) == 6


def test_a_listing_cannot_close_its_fence() -> None:
    text = as_markdown(Document("t", [Section("s", [Listing("a\n````\nb")])]))

    assert text.count("`````") == 2


def test_html_has_the_figure_and_nothing_from_elsewhere() -> None:
    html = as_html(compose(experiment(), results_of(VALUES), [job("job_1")], VERSIONS))

    assert html.count('<svg role="img"') == 1
    assert "<script" not in html
    assert re.findall(r'(?:src|href)="(?!#)', html) == []
