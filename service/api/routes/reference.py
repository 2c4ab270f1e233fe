"""The description of the API: as a file, and as a page to read."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, Response

router = APIRouter(include_in_schema=False)

APART = "sandbox allow-scripts allow-popups"
"""The page's scripts are not ours, so it gets an origin of its own: what the dashboard keeps is out of their reach."""


@router.get("/openapi.json")
async def description(request: Request) -> JSONResponse:
    """What `openapi.json` in the sources says too. A page of any origin may read it."""
    document: dict[str, Any] = request.app.openapi()
    return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*"})


@router.get("/docs")
async def page(request: Request) -> Response:
    """The description as a page; the reader's browser needs the network for it."""
    shown = get_swagger_ui_html(openapi_url="/openapi.json", title=f"{request.app.title}: the HTTP API")
    shown.headers["Content-Security-Policy"] = APART
    return shown
