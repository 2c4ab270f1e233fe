"""The files of the dashboard: its page, which all paths of its router return, its modules, and plotly.js."""

import asyncio
from threading import Lock

from fastapi import APIRouter, Request
from fastapi.responses import Response

from service.api.http.negotiation import preferred
from service.dashboard.assets import ASSETS_URL, Asset, Assets
from service.errors import NotFound

PAGES = (
    "/",
    "/jobs",
    "/jobs/{id}",
    "/compare",
    "/explore",
    "/experiments",
    "/experiments/{id}",
    "/new",
    "/cluster",
    "/docs",
)
"""The paths that the router in the browser handles."""

FOLDERS = ("assets", "vendor")
HTML = "text/html"

YEAR_S = 365 * 24 * 3600
CHANGES = "no-cache"
NEVER_CHANGES = f"public, max-age={YEAR_S}, immutable"

SECURITY = {
    # Only scripts, styles and data of this origin are loaded, and inline scripts are not executed.
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

router = APIRouter(include_in_schema=False)
_reading = Lock()


def assets_of(request: Request) -> Assets:
    """Return the files of the dashboard, which are read at the first request."""
    with _reading:
        if not hasattr(request.app.state, "assets"):
            request.app.state.assets = Assets(root_path=request.app.state.services.settings.root_path)
        found: Assets = request.app.state.assets
    return found


async def page(request: Request) -> Response:
    """The page of the dashboard. The router in the browser decides what it shows."""
    assets = await asyncio.to_thread(assets_of, request)
    return await _serve(request, assets.page, CHANGES)


async def missing_page(request: Request) -> Response | None:
    """Return the page, with the status 404, for a browser that asks for an unknown path; None for clients of the API.

    The router in the browser says that there is nothing.
    """
    accepted = preferred(request.headers.get("accept"), ("application/problem+json", "application/json", HTML))
    first = request.url.path.split("/")[1]
    if request.method != "GET" or accepted != HTML or first in ("v1", *FOLDERS):
        return None
    assets = await asyncio.to_thread(assets_of, request)
    return await _serve(request, assets.page, CHANGES, status=404)


for path in PAGES:
    router.add_api_route(path, page, methods=["GET"])


@router.get(ASSETS_URL + "/{release}/{name:path}")
async def asset(request: Request, release: str, name: str) -> Response:
    """A module or style sheet. A page of another release gets the file of this one, without caching."""
    assets = await asyncio.to_thread(assets_of, request)
    if name not in assets.files:
        raise NotFound("file", f"{name[:80]} of the dashboard")
    return await _serve(request, assets.files[name], NEVER_CHANGES if release == assets.version else CHANGES)


@router.get("/vendor/{name}")
async def vendor(request: Request, name: str) -> Response:
    """plotly.js, of the installed version of plotly."""
    assets = await asyncio.to_thread(assets_of, request)
    if f"/vendor/{name}" != assets.plotly_url:
        raise NotFound("file", f"{name[:80]}: the dashboard uses {assets.plotly_url}")
    return await _serve(request, await asyncio.to_thread(lambda: assets.plotly), NEVER_CHANGES)


async def _serve(request: Request, asset: Asset, caching: str, status: int = 200) -> Response:
    zipped = "gzip" in request.headers.get("accept-encoding", "")
    etag = f'"{asset.digest}{"-gzip" if zipped else ""}"'
    headers = SECURITY | {"Cache-Control": caching, "ETag": etag, "Vary": "Accept-Encoding"}
    if status == 200 and etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = await asyncio.to_thread(lambda: asset.compressed) if zipped else asset.body
    if zipped:
        headers["Content-Encoding"] = "gzip"
    return Response(body, status, headers=headers, media_type=asset.media_type)
