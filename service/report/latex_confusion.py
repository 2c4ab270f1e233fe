"""A confusion matrix as a table for a paper."""

from collections.abc import Mapping
from typing import Any

from service.experiments.numbers import Number
from service.report.latex import NOTHING, PREAMBLE, escape, floating_table, tabular_row

Json = Mapping[str, Any]


def confusion_as_latex(evaluation: Json, title: str) -> str:
    """Write the confusion matrix of an evaluation: a row for each class, a column for each predicted class.

    Args:
        evaluation: The response of `GET /v1/evaluations/{evaluation_id}`, with predictions.
        title: The title of its job.
    """
    predictions = evaluation["predictions"]
    number = Number("test_error")
    names = [one["name"] for one in predictions["classes"]]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(names)}r}}",
        r"  \toprule",
        rf"  & \multicolumn{{{len(names)}}}{{c}}{{predicted class}} & \\",
        rf"  \cmidrule(lr){{2-{len(names) + 1}}}",
        tabular_row(["class", *(rf"\rotatebox{{90}}{{{escape(name)}}}" for name in names), r"error (\%)"]),
        r"  \midrule",
    ]
    for place, (one, row) in enumerate(zip(predictions["classes"], predictions["confusion"], strict=True)):
        counts = [rf"$\mathbf{{{count}}}$" if at == place else f"${count}$" for at, count in enumerate(row)]
        error = NOTHING if one["error"] is None else f"${number.plain(one['error'])}$"
        lines.append(tabular_row([escape(one["name"]), *counts, error]))
    about = (
        f"{title}, step {evaluation['step']}: number of {evaluation['split']} images by class and predicted class, "
        f"normalized by {normalized_by(evaluation)}. Error: {number.text(predictions['error'])}."
    )
    body = [*lines, r"  \bottomrule", r"\end{tabular}"]
    table = floating_table(escape(about), f"tab:{evaluation['id'].replace('_', '-')}", body)
    return f"{PREAMBLE}\n% \\usepackage{{graphicx}}\n{table}"


def normalized_by(evaluation: Json) -> str:
    """Say by which statistics the layers normalized in an evaluation."""
    if (size := evaluation["batch_statistics"]) is not None:
        return f"statistics of batches of {size}"
    if (images := evaluation["precise_statistics"]) is not None:
        return f"statistics of {images} training images"
    return "running averages"
