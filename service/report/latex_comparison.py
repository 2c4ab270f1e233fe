"""Several experiments as tables for a paper: their cells side by side, and the differences of those that they share."""

from collections.abc import Mapping, Sequence
from typing import Any

from service.experiments.numbers import Number, percent, words
from service.report.latex import (
    MARK,
    MOST_ROWS,
    PREAMBLE,
    comment,
    escape,
    floating_table,
    mean_cell,
    tabular_row,
    tested,
)

Json = Mapping[str, Any]


def comparison_as_latex(comparison: Json) -> str:
    """Write the cells of several experiments, and their differences if there are any.

    Args:
        comparison: The response of `GET /v1/comparison`.
    """
    number = Number(comparison["metric"])
    warnings = [*comparison["warnings"], *(w for one in comparison["experiments"] for w in one["warnings"])]
    head = [PREAMBLE, *(comment(f"{one['code']}: {one['detail']}") for one in warnings)]
    interval = escape(percent(comparison["confidence"]).replace(" ", ""))
    caption = f"{_about(comparison, number)}. Mean over seeds $\\pm$ half of the {interval} interval."
    parts = [floating_table(caption, "tab:experiments", _cells(comparison, number), _failed(comparison))]
    every = comparison["differences"]
    for first in range(0, len(every), MOST_ROWS):
        some = every[first : first + MOST_ROWS]
        unit = " in percentage points" if number.is_error else ""
        caption = f"{_about(comparison, number)}: differences{unit}, paired over seeds."
        label = "tab:experiments-differences" + (f"-{first // MOST_ROWS + 1}" if first else "")
        note = _differences_note(comparison) if first + MOST_ROWS >= len(every) else ""
        parts.append(
            floating_table(
                caption + (" Continued." if first else ""), label, _differences(comparison, some, number), note
            )
        )
    return "\n".join(head) + "\n" + "\n".join(parts)


def _about(comparison: Json, number: Number) -> str:
    images = f"images: {', '.join(comparison['datasets'])}" if comparison["datasets"] else ""
    return escape(", ".join(filter(None, [number.axis, comparison["statistic_title"], images])))


def _cells(comparison: Json, number: Number) -> list[str]:
    columns = [value["label"] for value in comparison["columns"]["values"]]
    field = words(comparison["columns"]["field"])
    lines = [rf"\begin{{tabular}}{{ll{'r' * len(columns)}}}", r"  \toprule"]
    if columns:
        lines += [
            rf"  & & \multicolumn{{{len(columns)}}}{{c}}{{{escape(field)}}} \\",
            rf"  \cmidrule(lr){{3-{len(columns) + 2}}}",
        ]
    heads = [escape(words(comparison["rows"]["field"])), "experiment", *map(escape, columns)]
    lines += [tabular_row(heads), r"  \midrule"]
    for row in (value["label"] for value in comparison["rows"]["values"]):
        for one in comparison["experiments"]:
            cells = {cell["column"]: cell for cell in one["cells"] if cell["row"] == row}
            if not cells:
                continue
            with_values = {column: cell for column, cell in cells.items() if cell["mean"] is not None}
            shown = [mean_cell(with_values.get(column), number, with_size=True) for column in columns]
            lines.append(tabular_row([escape(row), escape(one["title"]), *shown]))
    return [*lines, r"  \bottomrule", r"\end{tabular}"]


def _failed(comparison: Json) -> str:
    notes = ["In parentheses: $n$, the number of seeds."]
    counted = "count as the error of a guess" if comparison["failed"] == "chance" else "are excluded"
    failed = [
        f"{cell['failed']} of {escape(cell['row'])} at {escape(cell['column'])} in {escape(one['title'])}"
        for one in comparison["experiments"]
        for cell in one["cells"]
        if cell["failed"]
    ]
    return " ".join(notes + ([f"Trainings that failed {counted}: {'; '.join(failed)}."] if failed else []))


def _differences(comparison: Json, some: Sequence[Json], number: Number) -> list[str]:
    titles = {one["experiment"]: one["title"] for one in comparison["experiments"]}
    heads = [words(comparison[axis]["field"]) for axis in ("rows", "columns")]
    lines = [
        r"\begin{tabular}{lllrrrr}",
        r"  \toprule",
        tabular_row([*map(escape, heads), "$a - b$", "$n$", "difference", "interval", "adjusted $p$"]),
        r"  \midrule",
    ]
    for one in some:
        pair = f"{escape(titles[one['experiment_a']])} $-$ {escape(titles[one['experiment_b']])}"
        lines.append(tabular_row([escape(one["row"]), escape(one["column"]), pair, *tested(one, number)]))
    return [*lines, r"  \bottomrule", r"\end{tabular}"]


def _differences_note(comparison: Json) -> str:
    confidence = escape(percent(comparison["confidence"]).replace(" ", ""))
    alpha = f"{1 - comparison['confidence']:.2g}"
    return (
        f"Interval: {confidence}, of each difference by itself. ${MARK}$: significant (paired $t$ test, $p < {alpha}$ "
        f"adjusted by Holm for {comparison['family_size']} differences). $n$: seeds that both have."
    )
