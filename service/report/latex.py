r"""Results as tables for a paper: LaTeX with the package booktabs.

The text is ASCII but for names that are not. pdfLaTeX sets those with Latin letters; other scripts need XeLaTeX or
LuaLaTeX.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.experiments.numbers import Number, p_value, percent, words
from service.report.content import in_order
from worker.metrics import METRICS

Json = Mapping[str, Any]

MOST_ROWS = 45
"""Rows of a table of comparisons that fit on a page. LaTeX does not break a table, so further rows are another one."""
MARK = r"^{\dagger}"
NOTHING = "--"
PREAMBLE = r"% \usepackage{booktabs}"
"""Says what a document needs for these tables."""
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after \\ a bracket would begin its optional argument, and a star belong to its name
    "*": "{*}",
    "-": "{-}",  # two hyphens would become a dash
    "–": "--",
    "\N{MINUS SIGN}": "$-$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "γ": r"$\gamma$",
    "σ": r"$\sigma$",
} | {character: f"\\{character}" for character in "{}$&#%_"}


def as_latex(results: Json) -> str:
    """Write the table of results, and one of their comparisons if there are any.

    Args:
        results: The response of `GET /v1/results`.
    """
    number = Number(results["metric"])
    name = re.sub(r"[^A-Za-z0-9]+", "-", results["experiment"] or "results").strip("-")
    head = [PREAMBLE, *_comments(results)]
    tables = [
        floating_table(_cells_caption(results, number), f"tab:{name}", _grid(results, number), _note(results, number))
    ]
    every = in_order(results)
    parts = [every[first : first + MOST_ROWS] for first in range(0, len(every), MOST_ROWS)]
    for part, comparisons in enumerate(parts):
        caption = _comparisons_caption(results, number) + (" Continued." if part else "")
        label = f"tab:{name}-comparisons" + (f"-{part + 1}" if part else "")
        body = _comparisons(results["columns"]["field"], comparisons, number)
        tables.append(
            floating_table(caption, label, body, _comparisons_note(results) if part == len(parts) - 1 else "")
        )
    return "\n".join(head) + "\n" + "\n".join(tables)


def escape(text: str) -> str:
    """Return text that LaTeX typesets as it is. Line breaks and control characters become spaces."""
    plain = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    return "".join(_SPECIAL.get(one, one) for one in plain)


def _comments(results: Json) -> Iterable[str]:
    yield comment(results["headline"])
    for warning in results["warnings"]:
        yield comment(f"{warning['code']}: {warning['detail']}")


def comment(text: str) -> str:
    """Return a text as a comment of LaTeX."""
    return f"% {' '.join(text.split())}"


def floating_table(caption: str, label: str, body: Sequence[str], note: str = "") -> str:
    """Return a table with its caption, and a note below it if there is one. `body` are the lines of its tabular."""
    lines = [
        r"\begin{table}",
        r"  \centering\small\setlength{\tabcolsep}{4pt}\setlength{\abovetopsep}{4pt}",
        f"  \\caption{{{caption}}}",
        f"  \\label{{{label}}}",
        *(f"  {line}" for line in body),
        *([rf"  \par\smallskip\footnotesize {note}"] if note else []),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _about(results: Json, number: Number) -> str:
    """What the numbers are: the metric, the statistic, and the images."""
    images = f"images: {', '.join(results['datasets'])}" if results["datasets"] else ""
    return ", ".join(filter(None, [number.axis, results["statistic_title"], images]))


def _cells_caption(results: Json, number: Number) -> str:
    about = f"{results['name']}: {_about(results, number)}." if results["name"] else f"{_about(results, number)}."
    interval = percent(results["confidence"]).replace(" ", "")
    return f"{escape(about)} Mean over seeds $\\pm$ half of the {escape(interval)} interval."


def _comparisons_caption(results: Json, number: Number) -> str:
    unit = " in percentage points" if number.is_error else ""
    return f"{escape(_about(results, number))}: differences{unit}, paired over seeds."


def _grid(results: Json, number: Number) -> list[str]:
    cells = {(cell["row"], cell["column"]): cell for cell in results["cells"] if cell["mean"] is not None}
    columns = [value["label"] for value in results["columns"]["values"]]
    best = {column: best_rows(results["metric"], column, cells) for column in columns}
    worse = _worse_than_the_best(results, best)
    with_size = len({cell["n"] for cell in cells.values()}) > 1
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"  \toprule",
    ]
    if columns:
        lines += [
            rf"  & \multicolumn{{{len(columns)}}}{{c}}{{{escape(words(results['columns']['field']))}}} \\",
            rf"  \cmidrule(lr){{2-{len(columns) + 1}}}",
        ]
    lines += [tabular_row([escape(words(results["rows"]["field"])), *map(escape, columns)]), r"  \midrule"]
    for row in (value["label"] for value in results["rows"]["values"]):
        shown = [
            mean_cell(
                cells.get((row, column)),
                number,
                bold=row in best[column],
                marked=(row, column) in worse,
                with_size=with_size,
            )
            for column in columns
        ]
        lines.append(tabular_row([escape(row), *shown]))
    return [*lines, r"  \bottomrule", r"\end{tabular}"]


def tabular_row(cells: Sequence[str]) -> str:
    """Return a row of a tabular."""
    return f"  {' & '.join(cells)} \\\\"


def mean_cell(
    cell: Json | None, number: Number, *, bold: bool = False, marked: bool = False, with_size: bool = False
) -> str:
    """Return a mean with half its interval, and with the number of its seeds if `with_size`."""
    if cell is None:
        return NOTHING
    mean = number.plain(cell["mean"])
    half = number.half(cell["interval"])
    text = rf"\mathbf{{{mean}}}" if bold else mean
    text += MARK if marked else ""
    text += "" if half is None else rf" \pm {half}"
    return f"${text}$" + (f" ({cell['n']})" if with_size else "")


def best_rows(metric: str, column: str, cells: Mapping[tuple[str, str], Json]) -> set[str]:
    """Return the rows with the best mean of a column; none if no value of the metric is better than another."""
    means = {row: cell["mean"] for (row, at), cell in cells.items() if at == column}
    better = METRICS[metric].better
    if better is None or len(means) < 2:
        return set()
    best = min(means.values()) if better == "lower" else max(means.values())
    return {row for row, mean in means.items() if mean == best}


def _worse_than_the_best(results: Json, best: Mapping[str, set[str]]) -> set[tuple[str, str]]:
    """Return the cells (row, column) whose difference from the best of their column is significant."""
    found = set()
    for comparison in results["comparisons"]:
        rows, column = {comparison["row_a"], comparison["row_b"]}, comparison["column"]
        if comparison["resolved"] and len(others := rows - best[column]) == 1:
            found.add((others.pop(), column))
    return found


def _note(results: Json, number: Number) -> str:
    cells = [cell for cell in results["cells"] if cell["mean"] is not None]
    sizes = {cell["n"] for cell in cells}
    notes = []
    if len(sizes) == 1:
        notes.append(f"$n = {sizes.pop()}$ seeds in each cell.")
    elif sizes:
        notes.append("In parentheses: $n$, the number of seeds.")
    if METRICS[results["metric"]].better is not None:
        notes.append("Bold: the best mean of each column.")
        if results["comparisons"]:
            notes.append(rf"${MARK}$: significantly different from it ({_test(results)}).")
    if results["budget"] is not None and results["budget"] < 1:
        notes.append(f"Trained at {escape(percent(results['budget']).replace(' ', ''))} of the cost of the experiment.")
    if failed := [cell for cell in results["cells"] if cell["failed"]]:
        counted = "count as the error of a guess" if results["failed"] == "chance" else "are excluded"
        where = "; ".join(f"{cell['failed']} of {escape(cell['row'])} at {escape(cell['column'])}" for cell in failed)
        notes.append(f"Trainings that failed {counted}: {where}.")
    return " ".join(notes)


def _test(results: Json) -> str:
    alpha = f"{1 - results['confidence']:.2g}"
    return f"paired $t$ test, $p < {alpha}$ adjusted by Holm for {results['family_size']} comparisons"


def _comparisons(field: str, comparisons: Sequence[Json], number: Number) -> list[str]:
    lines = [
        r"\begin{tabular}{llrrrr}",
        r"  \toprule",
        tabular_row([escape(words(field)), "$a - b$", "$n$", "difference", "interval", "adjusted $p$"]),
        r"  \midrule",
    ]
    for one in comparisons:
        pair = f"{escape(one['row_a'])} $-$ {escape(one['row_b'])}"
        lines.append(tabular_row([escape(one["column"]), pair, *tested(one, number)]))
    return [*lines, r"  \bottomrule", r"\end{tabular}"]


def tested(comparison: Json, number: Number) -> list[str]:
    """Return the cells of a comparison: n, the difference, its interval and its adjusted p."""
    interval = comparison["interval"]
    difference = comparison["difference"]
    bounds = [number.plain(bound, "+") for bound in interval] if interval else []
    failed = f", {comparison['failed']} failed" if comparison["failed"] else ""
    return [
        f"{comparison['n']}{failed}",
        NOTHING if difference is None else difference_text(number.plain(difference, "+"), comparison),
        f"$[{bounds[0]},\\ {bounds[1]}]$" if bounds else NOTHING,
        NOTHING if comparison["p_adjusted"] is None else f"${p_value(comparison['p_adjusted'])}$",
    ]


def difference_text(value: str, comparison: Json) -> str:
    """Return a difference, with a mark if it is significant."""
    return f"${value}{MARK if comparison['resolved'] else ''}$"


def _comparisons_note(results: Json) -> str:
    confidence = escape(percent(results["confidence"]).replace(" ", ""))
    return (
        f"Interval: {confidence}, of each comparison by itself. ${MARK}$: significant ({_test(results)}). "
        "$n$: seeds that both have."
    )
