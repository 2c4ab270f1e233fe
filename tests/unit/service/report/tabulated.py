"""Results as the API answers them, for tests of what is written from them."""

from typing import Any

from service.experiments.statistics import Observation, analyse

HOSTILE = '<script>alert("x")</script> | `code` *bold* & [link](http://x)'


def results_of(values: dict[tuple[str, str], list[float]], **changed: Any) -> dict[str, Any]:
    """Return the results of the API for values by row and column, one per seed."""
    observations = [
        Observation(row, column, seed, value, f"job_{row}_{column}_{seed}")
        for (row, column), some in values.items()
        for seed, value in enumerate(some)
    ]
    analysis = analyse(observations)
    rows, columns = (list(dict.fromkeys(place[axis] for place in values)) for axis in (0, 1))
    cells = [
        {
            "row": cell.row,
            "column": cell.column,
            "n": cell.n,
            "mean": cell.mean,
            "interval": cell.interval,
            "without_value": cell.without_value,
            "failed": cell.failed,
            "values": [
                {"seed": o.seed, "value": o.value, "job": o.job}
                for o in observations
                if (o.row, o.column) == (cell.row, cell.column)
            ],
            "jobs": [o.job for o in observations if (o.row, o.column) == (cell.row, cell.column)],
        }
        for cell in analysis.cells
    ]
    interaction = analysis.interaction
    return {
        "experiment": "exp_1",
        "name": "the paper's",
        "budget": 1.0,
        "headline": "At batch size 2, batch has more test error than group.",
        "metric": "test_error",
        "statistic": "final",
        "statistic_title": "after the last epoch",
        "stage": None,
        "tuning": None,
        "beside": [],
        "step": None,
        "failed": "omitted",
        "evaluated_on": "test",
        "datasets": ["synthetic"],
        "precisions": ["float32"],
        "rows": {"field": "normalization", "values": [{"label": row} for row in rows]},
        "columns": {"field": "batch_size", "values": [{"label": column} for column in columns]},
        "cells": cells,
        "comparisons": [vars(comparison) for comparison in analysis.comparisons],
        "interaction": None
        if interaction is None
        else vars(interaction) | {"contrasts": [vars(contrast) for contrast in interaction.contrasts]},
        "confidence": 0.95,
        "family_size": analysis.family_size,
        "sequential": None,
        "interim_analyses": [],
        "warnings": [],
    } | changed


VALUES = {
    ("batch", "32"): [0.10, 0.11, 0.12],
    ("batch", "2"): [0.30, 0.31, 0.33],
    ("group", "32"): [0.11, 0.10, 0.125],
    ("group", "2"): [0.12, 0.125, 0.13],
}
