"""The API described in OpenAPI 3.1. `python -m service.api.openapi` writes openapi.json beside this file, for clients.

A test compares that file with what the application says of itself.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from service.api.http.problems import Problem

PATH = Path(__file__).with_name("openapi.json")
TEMPLATE = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """What the application answers at /openapi.json."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        _, problem = models_json_schema([(Problem, "serialization")], ref_template=TEMPLATE)
        schema["components"]["schemas"] |= problem["$defs"]
        app.openapi_schema = schema
    return app.openapi_schema


def render(description: dict[str, Any]) -> str:
    """The text of the file."""
    return json.dumps(description, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write the file anew."""
    from service.app import create_app
    from service.settings import Settings

    with tempfile.TemporaryDirectory() as home:
        PATH.write_text(render(create_app(Settings(home=Path(home))).openapi()), encoding="utf-8")


if __name__ == "__main__":
    main()
