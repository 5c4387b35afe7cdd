"""The three pages, their style sheet and modules, and BokehJS from the installed package.

All but the pages lie under a digest of their content, so that browsers keep them until an update changes their
address. Names are those of a list made once: no path comes from a request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from airflow.api_fastapi.core_api.security import get_user
from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, Response

from plugins.run_page.access import READS_RUN

_STATIC = Path(__file__).parent / "static"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}

router = APIRouter()


@cache
def assets() -> Mapping[str, Path]:
    """Static files by name."""
    own = {path.name: path for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}
    return own | {path.name: path for path in _bokeh()}


def _bokeh() -> list[Path]:
    """BokehJS and its plotting interface, found without importing bokeh."""
    package = find_spec("bokeh")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("the run page draws with BokehJS: install requirements.txt")
    folder = Path(package.submodule_search_locations[0]) / "server" / "static" / "js"
    return [folder / "bokeh.min.js", folder / "bokeh-api.min.js"]


@cache
def digest() -> str:
    """Of all static files: part of their addresses."""
    content = hashlib.sha256()
    for name, path in sorted(assets().items()):
        content.update(name.encode() + path.read_bytes())
    return content.hexdigest()[:16]


@cache
def _page(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8").replace("{digest}", digest())


@router.get("/", dependencies=[Depends(get_user)])
def runs_page() -> HTMLResponse:
    """The list of runs, for the navigation."""
    return HTMLResponse(_page("runs.html"))


@router.get("/compare", dependencies=[Depends(get_user)])
def compare_page() -> HTMLResponse:
    """Several runs side by side. Which ones, stands in the address; what of each, that run's own routes allow."""
    return HTMLResponse(_page("compare.html"))


@router.get("/dags/{dag_id}/run", dependencies=[READS_RUN])
def run_page() -> HTMLResponse:
    """One run. Which one stands in the address, where the page's own script reads it."""
    return HTMLResponse(_page("run.html"))


@router.get("/static/{version}/{name}", dependencies=[Depends(get_user)])
def static_file(version: str, name: str) -> Response:
    """A static file of the current version."""
    if version != digest() or name not in assets():
        raise HTTPException(404, "no such file; reload the page")
    path = assets()[name]
    return FileResponse(path, media_type=_TYPES[path.suffix], headers=_KEPT)
