"""Answers every failure of a request in the one shape, whatever raised it."""

from __future__ import annotations

import json
import logging

import asyncpg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from taximeter.api.web.errors import (
    ApiError,
    error_content,
    from_meter,
    validation_refusal,
)
from taximeter.meter import MeterError
from taximeter.meter.wire.http_refusals import REFUSED
from taximeter.settler.books.retries import TRANSIENT
from taximeter.settler.books.stores import AWAY

logger = logging.getLogger("taximeter.api")

_DATABASE_ERRORS = (*AWAY, asyncpg.InterfaceError)


def error_response(error: ApiError) -> JSONResponse:
    """The whole answer for an `ApiError`."""
    content = error_content(error.code, error.message, error.details)
    return JSONResponse(content, error.status, error.headers)


def refusal_of(error: Exception, method: str, path: str) -> ApiError:
    """Say any failure of a request as a refusal. What should not happen is logged, and nothing of
    the inside leaves with its 500.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, MeterError):
        return from_meter(error)
    if isinstance(error, RequestValidationError):
        return validation_refusal(error.errors())
    if isinstance(error, StarletteHTTPException):
        return ApiError(error.status_code, str(error.detail), headers=error.headers or {})
    if isinstance(error, json.JSONDecodeError):
        return ApiError(422, f"body: not valid JSON: {error.msg}")
    if isinstance(error, TRANSIENT):
        logger.error("undone for the sake of others, again and again: %s %s", method, path)
        return ApiError.of("busy")
    if isinstance(error, _DATABASE_ERRORS):
        logger.error("postgres is unavailable for %s: %r", path, error)
        return ApiError.of("database_away")
    logger.error("unexpected error in %s %s", method, path, exc_info=error)
    return ApiError.of("internal")


def install_error_handlers(app: FastAPI) -> None:
    """Give every way to fail the same shape."""

    async def on_error(request: Request, error: Exception) -> JSONResponse:
        refusal = refusal_of(error, request.method, request.url.path)
        request.scope[REFUSED] = refusal.cause
        return error_response(refusal)

    kinds = (
        ApiError,
        MeterError,
        RequestValidationError,
        StarletteHTTPException,
        json.JSONDecodeError,
        *TRANSIENT,
        *_DATABASE_ERRORS,
        Exception,
    )
    for kind in kinds:
        app.add_exception_handler(kind, on_error)
