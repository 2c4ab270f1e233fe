"""The description of the API as an OpenAPI document. The dashboard shows it as a page, `/docs`."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from service.api.http.prefix import link

router = APIRouter(include_in_schema=False)


@router.get("/openapi.json")
async def description(request: Request) -> JSONResponse:
    """The OpenAPI document. Pages of any origin may read it."""
    document: dict[str, Any] = request.app.openapi()
    if prefix := link(""):
        document = document | {"servers": [{"url": prefix}]}
    return JSONResponse(document, headers={"Access-Control-Allow-Origin": "*"})
