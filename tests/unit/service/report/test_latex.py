"""The tables of a paper have the numbers of the results, and LaTeX reads whatever the rows are called."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from service.report import as_latex, comparison_as_latex, confusion_as_latex
from service.report.latex import MOST_ROWS, escape
from tests.unit.service.report.tabulated import HOSTILE, VALUES, results_of

EVERYTHING = "\\ { } $ & # % _ ^ ~ < > | \" ' ` [1] * -- – ± × σ é\n\x00 \\end{table}"


def rows(text: str, table: int = 0) -> list[list[str]]:
    """Return the cells of the rows below the head of a table."""
    bodies = re.findall(r"\\midrule\n(.*?)\s*\\bottomrule", text, re.DOTALL)
    return [line.strip().removesuffix(r"\\").strip().split(" & ") for line in bodies[table].splitlines()]


def note(text: str, table: int = 0) -> str:
    return str(re.findall(r"footnotesize (.*)", text)[table])


def test_a_cell_is_the_mean_with_half_its_interval_in_per_cent() -> None:
    text = as_latex(results_of(VALUES))
    # The t quantile for 2 degrees of freedom is 4.302653; sd 1 and n 3 make a half width of 2.484.
    assert rows(text)[0][:2] == ["batch", r"$\mathbf{11.00} \pm 2.48$"]
    assert r"\multicolumn{2}{c}{batch size} \\" in text
    assert r"normalization & 32 & 2 \\" in text
    assert r"\caption{the paper's: Test error (\%), after the last epoch, images: synthetic." in text
    assert r"Mean over seeds $\pm$ half of the 95\% interval.}" in text
    assert note(text).startswith("$n = 3$ seeds in each cell.")


def test_the_best_of_a_column_is_bold_and_what_differs_from_it_is_marked() -> None:
    [batch, group] = rows(as_latex(results_of(VALUES)))
    assert batch[2] == r"$31.33^{\dagger} \pm 3.79$"
    assert group[1:] == [r"$11.17 \pm 3.13$", r"$\mathbf{12.50} \pm 1.24$"]
    fastest = rows(as_latex(results_of(VALUES, metric="images_per_s", evaluated_on="train")))
    assert fastest[0][2] == r"$\mathbf{0.3133} \pm 0.03795$", "a higher throughput is better"
    assert "adjusted by Holm for 2 comparisons" in note(as_latex(results_of(VALUES)))


def test_the_comparisons_are_a_table_of_their_own() -> None:
    text = as_latex(results_of(VALUES))
    [first, second] = rows(text, 1)
    assert first[:3] == ["32", "batch $-$ group", "3"]
    assert second[3] == r"$+18.83^{\dagger}$"
    assert re.fullmatch(r"\$\[\+\d+\.\d\d,\\ \+\d+\.\d\d\]\$", second[4])
    assert re.fullmatch(r"\$0\.00\d\d\$", second[5])
    assert "differences in percentage points, paired over seeds" in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    alone = as_latex(results_of({("batch", "2"): [0.1]}))
    assert alone.count(r"\begin{table}") == 1


def test_comparisons_that_do_not_fit_on_a_page_are_several_tables() -> None:
    many = {(f"row {row}", "2"): [0.1 + row / 100, 0.12 + row / 90] for row in range(11)}
    text = as_latex(results_of(many))
    assert [len(rows(text, table)) for table in (1, 2)] == [MOST_ROWS, 55 - MOST_ROWS]
    assert len(set(re.findall(r"\\label{(.*?)}", text))) == 3


def test_unequal_cells_say_their_n_and_empty_cells_have_none() -> None:
    results = results_of(VALUES | {("group", "2"): [0.12]})
    results["cells"] = [cell for cell in results["cells"] if (cell["row"], cell["column"]) != ("group", "32")]
    text = as_latex(results)
    assert rows(text)[1][1:] == ["--", r"$\mathbf{12.00}$ (1)"]
    assert "In parentheses: $n$" in note(text)
    assert as_latex(results_of({})).count("&") == 0


def test_reservations_about_the_numbers_are_in_the_table() -> None:
    warning = {"code": "synthetic_images", "detail": "Results on synthetic\nimages.", "jobs": []}
    title = "best epoch (optimistic: chosen on the test set)"
    results = results_of(VALUES, statistic_title=title, budget=0.25, warnings=[warning])
    results["cells"][0] |= {"failed": 2}
    text = as_latex(results)
    assert "% synthetic_images: Results on synthetic images.\n" in text
    assert "Test error (\\%), best epoch (optimistic: chosen on the test set), images: synthetic." in text
    assert r"Trained at 25\% of the cost of the experiment." in note(text)
    assert "Trainings that failed are excluded: 2 of batch at 2." in note(text)
    results["failed"] = "chance"
    assert "count as the error of a guess: 2 of batch" in note(as_latex(results))


def test_names_are_text() -> None:
    assert escape("50 % of a_b & c\n\x1b") == r"50 \% of a\_b \& c"
    assert escape("[1] --") == "{[}1] {-}{-}"
    text = as_latex(results_of({(EVERYTHING, EVERYTHING): [0.1], (HOSTILE, EVERYTHING): [0.2]}))
    assert text.count(r"\end{table}") == text.count(r"\begin{table}") == 2
    assert {len(cells) for cells in rows(text)} == {2}


def compared(title: str = "first") -> dict[str, Any]:
    """The response of `GET /v1/comparison` for two experiments with the same values."""
    results = results_of(VALUES)
    differences = [
        one | {"row": "batch", "experiment_a": "exp_1", "experiment_b": "exp_2"} for one in results["comparisons"]
    ]
    return results | {
        "experiments": [
            {"experiment": id_, "title": name, "cells": results["cells"], "warnings": []}
            for id_, name in (("exp_1", title), ("exp_2", "second"))
        ],
        "differences": differences,
    }


def test_experiments_stand_side_by_side_with_their_differences() -> None:
    text = comparison_as_latex(compared())
    assert rows(text)[:2] == [
        ["batch", "first", r"$11.00 \pm 2.48$ (3)", r"$31.33 \pm 3.79$ (3)"],
        ["batch", "second", r"$11.00 \pm 2.48$ (3)", r"$31.33 \pm 3.79$ (3)"],
    ]
    assert rows(text, 1)[0][:5] == ["batch", "2", "first $-$ second", "3", r"$+18.83^{\dagger}$"]
    assert "images: synthetic. Mean over seeds" in text
    assert "adjusted by Holm for 2 differences" in note(text, 1)
    assert comparison_as_latex(compared() | {"differences": []}).count(r"\begin{table}") == 1


def confused(name: str = "cat") -> dict[str, Any]:
    """The response of `GET /v1/evaluations/{evaluation_id}`."""
    classes = [{"name": name, "images": 4, "error": 0.25}, {"name": "dog", "images": 0, "error": None}]
    predictions = {"images": 4, "error": 0.25, "classes": classes, "confusion": [[3, 1], [0, 0]]}
    about = {"id": "evaluation_1", "step": 30, "split": "test", "batch_statistics": 4, "precise_statistics": None}
    return about | {"predictions": predictions}


def test_a_confusion_matrix_has_a_row_for_each_class() -> None:
    text = confusion_as_latex(confused(), "a job [synthetic]")
    assert rows(text) == [["cat", r"$\mathbf{3}$", "$1$", "$25.00$"], ["dog", "$0$", r"$\mathbf{0}$", "--"]]
    assert r"\caption{a job {[}synthetic], step 30: number of test images" in text
    assert "normalized by statistics of batches of 4." in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex: install texlive-latex-base")
def test_latex_typesets_the_tables_without_a_complaint(tmp_path: Path) -> None:
    def with_names(name: str) -> dict[str, Any]:
        results = results_of({(name, "32"): [0.1, 0.2], ("group", "32"): [0.4, 0.3], ("group", "2"): [0.1]})
        return results | {"name": name, "columns": results["columns"] | {"field": "dataset.train_limit"}}

    tables = [as_latex(with_names(name)) for name in (EVERYTHING, HOSTILE)]
    tables += [comparison_as_latex(compared(EVERYTHING)), confusion_as_latex(confused(HOSTILE), EVERYTHING)]
    packages = r"\usepackage{booktabs}\usepackage{graphicx}"
    document = rf"\documentclass{{article}}{packages}\begin{{document}}" + "\n".join(tables) + r"\end{document}"
    (tmp_path / "paper.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").exists()
    assert "Missing character" not in (tmp_path / "paper.log").read_text(errors="replace")
