"""The description of the API, as an OpenAPI document and as a page."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse, Response

from service.api.http.prefix import link

router = APIRouter(include_in_schema=False)

APART = "sandbox allow-scripts allow-popups"
"""The page loads third-party scripts. Its separate origin keeps them from reading the storage of the dashboard."""


@router.get("/openapi.json")
async def description(request: Request) -> JSONResponse:
    """The OpenAPI document. Pages of any origin may read it."""
    document: dict[str, Any] = request.app.openapi()
    if prefix := link(""):
        document = document | {"servers": [{"url": prefix}]}
    return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*"})


@router.get("/docs")
async def page(request: Request) -> Response:
    """Swagger UI, which the browser loads from the network."""
    shown = get_swagger_ui_html(openapi_url=link("/openapi.json"), title=f"{request.app.title}: the HTTP API")
    shown.headers["Content-Security-Policy"] = APART
    return shown
