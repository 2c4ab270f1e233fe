"""The committed OpenAPI 3.1 document, from which clients can be generated.

`python -m service.openapi` writes it. A test compares it with the description that the application serves.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from service.app import create_app
from service.settings import Settings

PATH = Path(__file__).parent / "api" / "openapi.json"


def render(description: dict[str, Any]) -> str:
    """Return the text of the document: sorted and indented, so that a change shows as a short diff."""
    return json.dumps(description, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main() -> None:
    """Write the document from the code."""
    with tempfile.TemporaryDirectory() as home:
        PATH.write_text(render(create_app(Settings(home=Path(home))).openapi()), encoding="utf-8")


if __name__ == "__main__":
    main()
