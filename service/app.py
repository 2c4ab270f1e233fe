"""The HTTP API: `python -m service.app` serves it, `create_app` creates it for any ASGI server.

Answers depend on the database and the artifact store alone, so any number of replicas may run.
"""

import asyncio
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI
from pydantic.json_schema import models_json_schema
from starlette.routing import Route

from service import logs
from service.api import examples, routes
from service.api.context import Services
from service.api.http import connections, descriptors, problems
from service.api.http.auth import authorize
from service.api.http.field_problems import known_parameters_only
from service.api.http.head import HeadMiddleware
from service.api.http.middleware import RequestMiddleware
from service.api.http.origin import OriginMiddleware
from service.api.prometheus import Telemetry
from service.api.tailer import Tailer
from service.artifacts import LocalArtifacts, open_artifacts
from service.open_files import raise_limit
from service.settings import Settings, http_url, settings_or_exit
from service.store import Database, imports, migrate
from service.version import normlab_version

STREAMS_END_S = 5
"""Seconds that responses have to complete when the server stops. Event streams end at once."""

BACKLOG = 128
"""Connections that may wait to be accepted, and that are accepted at once."""

log = logging.getLogger("service.app")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application.

    Raises:
        ValueError: The settings name a location that cannot hold artifacts, or a prefix that is a path of the service.
    """
    settings = settings or Settings()
    database = Database(settings.database)
    artifacts = open_artifacts(settings.artifacts, copies=settings.home / "artifacts")
    telemetry = Telemetry(normlab_version(), artifacts if isinstance(artifacts, LocalArtifacts) else None)
    tailer = Tailer(database, max_streams=descriptors.max_streams(settings.max_streams))
    _check_prefix(settings.root_path)
    services = Services(settings, database, artifacts, tailer, telemetry)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with database:
            await migrate.settle(database)
            cleaning = asyncio.create_task(imports.keep_clean(database))
            try:
                async with services.tailer.running():
                    yield
            finally:
                cleaning.cancel()
                await asyncio.wait([cleaning])

    app = FastAPI(
        title="normlab",
        summary="Which normalization, at which batch size, and is the difference real?",
        version=normlab_version(),
        lifespan=lifespan,
        redirect_slashes=False,
        openapi_url=None,
        separate_input_output_schemas=False,
    )
    app.state.services = services
    # The one that is added last is the outer one.
    app.add_middleware(HeadMiddleware)
    if not settings.tokens:
        app.add_middleware(OriginMiddleware, allowed_hosts=settings.host_names)
    app.add_middleware(RequestMiddleware, telemetry=telemetry, root_path=settings.root_path)
    problems.install(app, routes.missing_page)
    for router in routes.PROTECTED:
        app.include_router(router, dependencies=[Depends(authorize), Depends(known_parameters_only)])
    for router in routes.OPEN:
        app.include_router(router)
    app.openapi = partial(_describe, app)  # type: ignore[method-assign]
    return app


def _check_prefix(root_path: str) -> None:
    """Raise `ValueError` if a path without the prefix could be taken for one with it."""
    routers = (*routes.PROTECTED, *routes.OPEN)
    taken = {route.path.split("/")[1] for router in routers for route in router.routes if isinstance(route, Route)}
    if root_path and (first := root_path.split("/")[1]) in taken:
        raise ValueError(f"NORMLAB_ROOT_PATH is {root_path}, and /{first} is a path of the service: choose another one")


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, with examples, and the schema of the problems that every route may answer."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        template = "#/components/schemas/{model}"
        _, problem = models_json_schema([(problems.Problem, "serialization")], ref_template=template)
        schema["components"]["schemas"] |= problem["$defs"]
        examples.add_to(schema)
        app.openapi_schema = schema
    return app.openapi_schema


class Server(uvicorn.Server):
    """uvicorn, which waits for open responses when it stops: event streams are closed first."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address."""
        asyncio.get_running_loop().set_exception_handler(descriptors.LoopErrors())
        await super().startup(sockets)
        for server in getattr(self, "servers", []):
            for listener in server.sockets:
                host, port = listener.getsockname()[:2]
                url = http_url(host, port)
                log.info("listening on %s", url, extra={"url": url})

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the event streams, complete other responses, and stop."""
        services: Services = self.config.app.state.services  # type: ignore[union-attr]
        services.tailer.close()
        await super().shutdown(sockets)


def create_server(settings: Settings) -> Server:
    """Create a server at the address of the settings.

    Raises:
        ValueError: The artifact store or the prefix of the settings cannot be used.
    """
    max_connections = descriptors.max_connections()
    return Server(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STREAMS_END_S,
            http=connections.protocol(max_connections),
            limit_concurrency=max_connections,
            backlog=BACKLOG,
            server_header=False,
        )
    )


def main() -> None:
    """Serve until a signal stops the process.

    With `--standby` it begins once a line arrives at standard input, and ends without one.
    """
    if "--standby" in sys.argv[1:] and not sys.stdin.readline():
        return
    settings = settings_or_exit()
    logs.configure(settings.log_level)
    for chatty in ("uvicorn.error", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if warning := raise_limit():
        log.warning(warning)
    logging.getLogger("uvicorn.error").addFilter(descriptors.RefusalsOnce())
    try:
        server = create_server(settings)
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    # A full collection need not go through what the imports have created: nothing is answered meanwhile.
    gc.freeze()
    server.run()


if __name__ == "__main__":
    main()
