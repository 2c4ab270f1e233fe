"""The content of a report, composed from responses of the API."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.experiments import table_warnings
from service.experiments.findings import difference, unresolved
from service.experiments.numbers import NONE, Number, p_is, p_value, percent
from service.experiments.statistics import Comparison
from service.figures import draw, results_chart
from service.report.document import Block, Bullets, DataTable, Document, Figure, Listing, Paragraph, Section

Json = Mapping[str, Any]


def compose(
    experiment: Json, results: Json, jobs: Sequence[Json], versions: Mapping[str, str], picture_name: str = "figure.svg"
) -> Document:
    """Compose the report of an experiment.

    Args:
        experiment: The response of `GET /v1/experiments/{id}`.
        results: The response of `GET /v1/experiments/{id}/results`.
        jobs: Responses of `GET /v1/jobs/{id}`, each optionally with its `checkpoints`.
        versions: Versions of the software that writes the report, by name.
        picture_name: The file name by which Markdown refers to the figure.
    """
    number = Number(results["metric"])
    question = f"{number.axis} by {results['rows']['field']} and {results['columns']['field']}"
    grid = _grid(results, number)
    chart = results_chart(results)
    if not chart.is_empty:
        description = (
            f"{number.title} against {results['columns']['field']}: means over seeds, "
            f"with {percent(results['confidence'])} intervals if there are several seeds."
        )
        grid.append(Figure(picture_name, draw(chart, "svg").decode(), description))
    sections = [Section("Findings", [*_findings(results, number), _images(results)]), Section(question, grid)]
    sections += _results(results, number)
    sections += [
        Section("Statistical methods", [Bullets(list(_procedure(results, number)))]),
        Section("Training configuration", _training(experiment, results)),
        Section("Hardware and software", _machines(jobs, versions)),
        Section("Jobs", [_jobs(results, jobs, number)]),
    ]
    return Document(experiment["title"], sections)


def tables(results: Json) -> Document:
    """Compose the results only: their table, the comparisons, violated assumptions and possible confounds."""
    number = Number(results["metric"])
    question = f"{number.axis} by {results['rows']['field']} and {results['columns']['field']}"
    sections = [Section(question, [Paragraph(results["headline"]), _images(results), *_grid(results, number)])]
    return Document(results["name"] or "Results", sections + _results(results, number))


def _results(results: Json, number: Number) -> list[Section]:
    sections = []
    if results["tuning"] is not None:
        sections.append(Section("Tuning", list(_tuning(results, number))))
    if results["comparisons"]:
        sections.append(Section("Pairwise comparisons", [_comparisons(results, number)]))
    about_the_table = [warning for warning in results["warnings"] if warning["code"] in table_warnings.CODES]
    others = [warning for warning in results["warnings"] if warning["code"] not in table_warnings.CODES]
    for title, warnings in (("Violated assumptions", about_the_table), ("Possible confounds", others)):
        if warnings:
            notes = [f"{warning['detail']} ({warning['code']})" for warning in warnings]
            sections.append(Section(title, [Bullets(notes)]))
    return sections


def _images(results: Json) -> Paragraph:
    return Paragraph(f"Images: {', '.join(results['datasets']) or NONE}.")


def _findings(results: Json, number: Number) -> list[Block]:
    compared = [Comparison(**comparison) for comparison in in_order(results) if comparison["p"] is not None]
    resolved = [comparison for comparison in compared if comparison.resolved]
    open_ = [comparison for comparison in compared if not comparison.resolved]
    blocks: list[Block] = [Paragraph(results["headline"])]
    if len(resolved) > 1:
        asked = results["metric"], results["columns"]["field"], results["confidence"]
        blocks.append(Bullets([f"{difference(comparison, *asked)}." for comparison in resolved]))
    if resolved and open_:
        blocks.append(Paragraph(f"{unresolved(open_, len(compared))}."))
    if results["interaction"] is not None:
        blocks.append(Paragraph(_interaction(results, number)))
    return blocks


def _interaction(results: Json, number: Number) -> str:
    interaction = results["interaction"]
    effect, on = f"The effect of {results['rows']['field']}", results["columns"]["field"]
    tested = [contrast for contrast in interaction["contrasts"] if contrast["p_adjusted"] is not None]
    alpha = 1 - results["confidence"]
    if resolved := [contrast for contrast in tested if contrast["p_adjusted"] < alpha]:
        changes = (
            f"{contrast['row_a']} - {contrast['row_b']} by {number.plain(contrast['difference'], '+')}"
            f"{' points' if number.is_error else ''} (adjusted p {p_is(contrast['p_adjusted'])})"
            for contrast in resolved
        )
        first, last = resolved[0]["column_first"], resolved[0]["column_last"]
        return f"{effect} depends on {on}. From {first} to {last} these differences change: {'; '.join(changes)}."
    least = min((contrast["p_adjusted"] for contrast in tested), default=None)
    given = "" if least is None else f" (least adjusted p of a change from the first to the last: {least:.2g})"
    return f"{effect} is not shown to depend on {on}{given}."


def in_order(results: Json) -> list[Json]:
    """Return the comparisons in the order of the columns."""
    columns = [value["label"] for value in results["columns"]["values"]]
    return sorted(results["comparisons"], key=lambda comparison: columns.index(comparison["column"]))


def _grid(results: Json, number: Number) -> list[Block]:
    cells = {(cell["row"], cell["column"]): cell for cell in results["cells"] if cell["mean"] is not None}
    sizes = {cell["n"] for cell in cells.values()}
    columns = [value["label"] for value in results["columns"]["values"]]
    rows = [
        [row["label"], *(_cell(cells.get((row["label"], column)), number, len(sizes) > 1) for column in columns)]
        for row in results["rows"]["values"]
    ]
    table = DataTable([f"{results['rows']['field']} \\ {results['columns']['field']}", *columns], rows)
    if len(sizes) != 1:
        return [table]
    (size,) = sizes
    return [table, Paragraph(f"{size} seeds in each cell." if size > 1 else "One seed in each cell, so no intervals.")]


def _tuning(results: Json, number: Number) -> Iterable[Block]:
    tuning = results["tuning"]
    over = "; ".join(
        f"{axis['field']} {', '.join(value['label'] for value in axis['values'])}" for axis in tuning["over"]
    )
    yield Paragraph(
        f"Searched for each {tuning['per']}: {over}. Each combination trained with {tuning['seeds']} seeds for "
        f"{percent(tuning['epochs'])} of the epochs without {tuning['holdout']} held-out training images, on which it "
        f"was judged: {tuning['jobs']} jobs, {tuning['device_s']:.0f} worker seconds. No test image was used. The "
        "chosen values then trained with other seeds on all training images."
    )
    rows = [
        [
            choice["row"],
            choice["column"] or "all",
            choice["label"] or choice["reason"] or "still searched",
            ", ".join(choice["edges"]) or NONE,
        ]
        for choice in tuning["choices"]
    ]
    header = [results["rows"]["field"], results["columns"]["field"], "chosen", "at the edge of what was searched"]
    yield DataTable(header, rows, labels=2)
    if results["beside"]:
        yield Paragraph(f"The {'untuned' if results['stage'] == 'tuned' else 'tuned'} jobs, beside the table above:")
        yield from _grid({**results, "cells": results["beside"]}, number)


def _cell(cell: Json | None, number: Number, with_size: bool) -> str:
    if cell is None:
        return NONE
    half = number.half(cell["interval"])
    spread = "" if half is None else f" ± {half}"
    return f"{number.plain(cell['mean'])}{spread}" + (f" (n = {cell['n']})" if with_size else "")


def _comparisons(results: Json, number: Number) -> DataTable:
    header = ["a", "b", "n", "a - b", "interval", "p", "adjusted p", "significant", "more seeds"]
    rows = [
        [
            comparison["column"],
            comparison["row_a"],
            comparison["row_b"],
            f"{comparison['n']}, {comparison['failed']} failed" if comparison["failed"] else str(comparison["n"]),
            NONE if comparison["difference"] is None else number.plain(comparison["difference"], "+"),
            number.range(comparison["interval"], "+"),
            p_value(comparison["p"]),
            p_value(comparison["p_adjusted"]),
            "yes" if comparison["resolved"] else "no",
            NONE if comparison["seeds_needed"] is None else str(comparison["seeds_needed"]),
        ]
        for comparison in in_order(results)
    ]
    return DataTable([results["columns"]["field"], *header], rows, labels=3)


def _procedure(results: Json, number: Number) -> Iterable[str]:
    confidence = percent(results["confidence"])
    yield f"{number.title}, {results['statistic_title']}, on the {results['evaluated_on']} images; n counts seeds."
    if analyses := len(results["interim_analyses"]):
        each = percent(round(1 - (1 - results["confidence"]) / analyses, 6))
        yield (
            f"± and “interval”: the two-sided {each} interval of the mean (Student's t), with a coverage of "
            f"{confidence} at any of the {analyses} interim analyses at which the experiment stops."
        )
    else:
        yield f"± and “interval”: the two-sided {confidence} interval of the mean (Student's t)."
    yield "Comparisons are paired over common seeds: both rows saw the same images in the same order."
    yield (
        f"Adjusted p: Holm's procedure (1979) over all {results['family_size']} comparisons of the table; "
        f"significant: below {1 - results['confidence']:.2g}."
    )
    if results["sequential"] is not None:
        yield results["sequential"]["procedure"]
    failed = sum(cell["failed"] for cell in results["cells"])
    if results["failed"] == "chance":
        yield f"Seeds whose jobs failed, and that count as the error of a guess: {failed}."
    else:
        excluded = sum(cell["without_value"] for cell in results["cells"])
        yield f"Seeds that ended without a value, and are excluded: {excluded}, of which {failed} failed."


def _training(experiment: Json, results: Json) -> list[Block]:
    request = experiment["request"]
    blocks: list[Block] = [
        _images(results),
        Paragraph(f"Precision of the activations: {', '.join(results['precisions']) or NONE}."),
    ]
    if experiment["budget"] < 1:
        share = f"Budget {experiment['budget']:g}: epochs and images are both scaled by its square root."
        blocks.append(Paragraph(share))
    wanted = {key: request[key] for key in ("base", "grid", "seeds", "tune", "outcome") if request.get(key)}
    return [*blocks, Listing(json.dumps(wanted, indent=2, ensure_ascii=False))]


def _machines(jobs: Sequence[Json], versions: Mapping[str, str]) -> list[Block]:
    attempts = [attempt for job in jobs for attempt in job["attempts"]]
    devices = Counter(f"{attempt['device']} on {_nodes(attempt)}" for attempt in attempts if attempt["device"])
    computed = sorted({_versions(attempt["versions"]) for attempt in attempts if attempt["versions"]})
    times = sorted(attempt["started_at"] for attempt in attempts)
    items = [f"{device}: {count} attempts" for device, count in sorted(devices.items())]
    items += [f"trained with {text}" for text in computed]
    if times:
        items.append(f"first attempt started at {times[0]}")
    items.append(f"report written by {_versions(versions)}")
    return [Bullets(items)]


def _nodes(attempt: Json) -> str:
    return ", ".join(dict.fromkeys(worker["node"] for worker in attempt["workers"]))


def _jobs(results: Json, jobs: Sequence[Json], number: Number) -> DataTable:
    values = {value["job"]: value["value"] for cell in results["cells"] for value in cell["values"]}
    places = {job: (cell["row"], cell["column"]) for cell in results["cells"] for job in cell["jobs"]}
    rows = [
        [
            job["id"],
            *places.get(job["id"], (NONE, NONE)),
            str(job["status"]),
            _weights(job.get("checkpoints", ())),
            str(job["spec"]["seed"]),
            number.text(values.get(job["id"])),
        ]
        for job in jobs
    ]
    header = ["job", results["rows"]["field"], results["columns"]["field"], "status", "sha256 of the weights"]
    return DataTable([*header, "seed", number.title.lower()], rows, labels=5)


def _weights(checkpoints: Sequence[Json]) -> str:
    """Return the sha256 of the weights in the latest checkpoint, the first of `checkpoints`."""
    files = checkpoints[0]["files"] if checkpoints else ()
    return next((file["sha256"] for file in files if file["name"] == "model.safetensors"), NONE)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
