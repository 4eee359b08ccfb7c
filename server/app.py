"""The ASGI application: routes, errors, and the life of the runtime."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI

from server import problems
from server.drain import Drain
from server.head import HeadAsGet
from server.hosts import allowed_hosts
from server.origin import SameOrigin
from server.routes import act, align, health, info, openpi, play, robots, w
from server.routes.openapi import without_defaults
from server.runtime import Runtime, load_runtime
from server.unread import ReadFirst
from server.version import package_version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from server.settings import Settings

_DESCRIPTION = """A robot policy server that aligns itself to the robot it runs on.

Bodies are JSON or msgpack. Errors are `application/problem+json`; branch on their `code`."""


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Build the application.

    Args:
        settings: of the server.
        runtime: what it serves; loaded by `settings` when the application starts if None.
    """
    app = FastAPI(
        title="selfalign server",
        version=package_version(),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.runtime = runtime
    app.state.drain = Drain()
    app.add_middleware(SameOrigin, hosts=allowed_hosts(settings))
    app.add_middleware(ReadFirst)
    app.add_middleware(HeadAsGet)
    problems.install(app)
    for module in (act, play, align, w, robots, info, health, openpi):
        app.include_router(module.router)
    app.add_api_websocket_route("/{path:path}", info.no_such_websocket)
    app.openapi_schema = without_defaults(app.openapi())
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.drain.bind()
    if app.state.runtime is None:
        app.state.runtime = load_runtime(app.state.settings)
    runtime: Runtime = app.state.runtime
    try:
        await runtime.start()
        yield
    finally:
        app.state.drain.begin()
        await runtime.close()
