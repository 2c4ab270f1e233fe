"""Titles and examples of the operations in the OpenAPI document, from which the page /docs is made.

The title of an operation is its id in words, or in `TITLES`. Its example is a command for a shell, with the ids of
resources in variables.
"""

import json
import re
import shlex
from typing import Any

ADDRESS = "http://localhost:8000"
TITLES = {"live": "Check liveness", "ready": "Check readiness", "scrape": "Get metrics for Prometheus"}
BODIES: dict[str, dict[str, Any]] = {
    "submit_job": {"normalization": {"type": "group", "num_groups": 8}, "batch_size": 4, "recipe": "wu-he"},
    "change_job": {"labels": {"study": "paper"}, "notes": "baseline"},
    "submit_experiment": {
        "name": "batch or group",
        "grid": {"normalization": [{"type": "batch"}, {"type": "group"}], "batch_size": [32, 4], "seed": [0, 1, 2]},
        "budget": 0.05,
    },
    "change_experiment": {"grid": {"seed": [3, 4]}},
    "create_share": {"anonymous": True, "expires_in_s": 2592000},
    "create_view": {"name": "failed jobs", "path": "/jobs?status=failed"},
    "extend_job": {"epochs": 60},
    "evaluate_checkpoint": {"split": "test", "batch_statistics": 32},
    "sign_in": {"token": "YOUR-TOKEN"},
}
"""The bodies of operations that need one, by operation id."""
QUERIES = {
    "submit_experiment": "dry_run=true",
    "list_jobs": "label=study:paper&sort=-test_error.best",
    "list_curves": "job=$JOB_ID&metric=test_error&smoothing=0.6",
    "get_results": "rows=normalization&columns=batch_size",
    "get_comparison_figure": "experiment=$EXPERIMENT_ID&experiment=$OTHER_EXPERIMENT_ID",
    "get_parallel_figure": "axis=batch_size&axis=test_error",
    "compare_experiments": "experiment=$EXPERIMENT_ID&experiment=$OTHER_EXPERIMENT_ID",
}
OPTIONS = {
    "import_bundle": ["-H", "content-type: application/x-tar", "--data-binary", "@experiment.tar"],
    "download_bundle": ["-o", "experiment.tar"],
    "get_report": ["-o", "report.html"],
    "download_file": ["-O"],
    "list_events": ["-N", "-H", "accept: text/event-stream"],
    "list_job_events": ["-N", "-H", "accept: text/event-stream"],
}
"""Further options of curl, by operation id."""
SEGMENTS = {"which": "best", "name": "model.safetensors", "format": "pdf"}
"""Values of path parameters that are no ids."""


def add_to(description: dict[str, Any]) -> None:
    """Add a title and an example to every operation of an OpenAPI document."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            id_ = operation["operationId"]
            operation["summary"] = TITLES.get(id_) or id_.replace("_", " ").capitalize()
            operation["x-codeSamples"] = [{"lang": "Shell", "source": _command(method, path, id_)}]
            if id_ in BODIES:
                operation["requestBody"]["content"]["application/json"]["example"] = BODIES[id_]


def _command(method: str, path: str, id_: str) -> str:
    for segment in re.findall(r"\{(\w+)\}", path):
        path = path.replace(f"{{{segment}}}", SEGMENTS.get(segment, f"${segment.upper()}"))
    address = ADDRESS + path + (f"?{QUERIES[id_]}" if id_ in QUERIES else "")
    words = [f'"{address}"' if {"?", "$"} & set(address) else address]
    if method == "head":
        words.append("--head")
    elif method != "get" and not (method == "post" and id_ in {*BODIES, *OPTIONS}):
        words.append(f"-X {method.upper()}")
    words += map(shlex.quote, OPTIONS.get(id_, []))
    if id_ in BODIES:
        words.append(f"-H 'content-type: application/json' -d {shlex.quote(json.dumps(BODIES[id_]))}")
    return " ".join(["curl -s", *words])
