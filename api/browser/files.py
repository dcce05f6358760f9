"""Serves the console's built files, and its one page for every address below /console that is no
file.
"""

from __future__ import annotations

import contextlib
import os
from importlib.resources import files
from mimetypes import guess_type
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Scope

from taximeter.api.browser.pages import file_headers, index_headers, make_nonce
from taximeter.api.web.strangers import NOTED_AS, NOTHING

BUILT: Final = Path(str(files("taximeter.api.browser"))) / "built"
"""What `make console` writes; it is not committed, and travels in the wheel."""
NOT_BUILT: Final = (
    "The console is not built here: run `make console` in the clone (it needs Node and the"
    " network), then load this page again.\n"
)
_INDEX: Final = "index.html"
_NONCE_PLACE: Final = "CSP_NONCE"
_PACKED: Final = (("br", ".br"), ("gzip", ".gz"))
_READ: Final = ["GET", "HEAD"]

router = APIRouter(include_in_schema=False)


def console_place(api_url: str) -> str:
    """Where the console of an API is, in words for whoever has started it."""
    if (BUILT / _INDEX).is_file():
        return f"{api_url}/console/"
    return "not built: `make console` in the clone builds it (Node and the network)"


class PackedFiles(StaticFiles):
    """Files that may lie there in a compressed form as well, made when they were built: whoever
    takes that is sent it.
    """

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        accepted = Headers(scope=scope).get("accept-encoding", "")
        response = super().file_response(full_path, stat_result, scope, status_code)
        kind = guess_type(full_path)[0] or "application/octet-stream"
        for coding, ending in _PACKED:
            packed = Path(f"{os.fspath(full_path)}{ending}")
            if _accepts(accepted, coding) and packed.is_file():
                response = super().file_response(packed, packed.stat(), scope, status_code)
                response.headers["Content-Encoding"] = coding
                break
        if response.status_code != 304:
            response.headers["Content-Type"] = f"{kind}; charset=utf-8" if _is_text(kind) else kind
        response.headers["Vary"] = "Accept-Encoding"
        return response


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or kind in ("application/json", "application/manifest+json")


def _accepts(header: str, coding: str) -> bool:
    for part in header.lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() == coding:
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


@router.api_route("/", methods=_READ)
async def root(request: Request) -> Response:
    """Leads to the console."""
    request.scope[NOTED_AS] = NOTHING
    return RedirectResponse("console/", 307)


@router.api_route("/console/assets/{path:path}", methods=_READ)
async def asset(path: str, request: Request) -> Response:
    """A file with a hash in its name. One that is gone is 404, and never the page: a script that is
    asked for by an older page must not be given HTML.
    """
    request.scope[NOTED_AS] = NOTHING
    if ".." in path:
        raise HTTPException(404)
    return await _file(f"assets/{path}", request, is_hashed=True)


@router.api_route("/console", methods=_READ)
@router.api_route("/console/{path:path}", methods=_READ)
async def page(request: Request, path: str = "") -> Response:
    """The page, whatever address of its own it is asked for; a file that lies beside it."""
    request.scope[NOTED_AS] = NOTHING
    if path.startswith("session/"):
        raise HTTPException(404)
    if path and "/" not in path and path != _INDEX and not path.startswith("."):
        with contextlib.suppress(HTTPException):
            return await _file(path, request, is_hashed=False)
    try:
        text = await run_in_threadpool((BUILT / _INDEX).read_text, encoding="utf-8")
    except OSError:
        return PlainTextResponse(NOT_BUILT, 404)
    nonce = make_nonce()
    return HTMLResponse(text.replace(_NONCE_PLACE, nonce), headers=index_headers(nonce))


async def _file(path: str, request: Request, *, is_hashed: bool) -> Response:
    """Raises HTTPException 404."""
    response = await PackedFiles(directory=BUILT, check_dir=False).get_response(path, request.scope)
    response.headers.update(file_headers(is_hashed=is_hashed))
    return response
