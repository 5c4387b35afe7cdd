"""The FastAPI application that Airflow mounts."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from plugins.run_page import assets, log_routes, run_routes
from plugins.run_page.headers import SecurityHeaders
from shardline.base.errors import ShardlineError


@cache
def application() -> FastAPI:
    """The application; its schema and documentation are not published."""
    app = FastAPI(title="Shardline run page", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(ShardlineError, _explain)
    for router in (assets.router, run_routes.router, run_routes.of_a_run, log_routes.router):
        app.include_router(router)
    return app


def _explain(_request: Request, error: Exception) -> JSONResponse:
    """A file that is missing, damaged or out of bounds: the page shows the message where it would show the content."""
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, status_code=422)
