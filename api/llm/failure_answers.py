"""Says how the LLM route failed: in the API's shape, with what OpenAI's clients read of an error
besides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from taximeter.api.web.errors import ApiError, error_content

_TYPE_OF_STATUS = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    408: "timeout_error",
    429: "rate_limit_error",
}


def failure_response(error: ApiError) -> JSONResponse:
    """The whole answer, with an id to ask about also where there was no hold yet."""
    headers = dict(error.headers)
    headers.setdefault("X-Request-Id", f"req-{os.urandom(16).hex()}")
    return JSONResponse(failure_content(error), error.status, headers)


def failure_content(error: ApiError) -> dict[str, Any]:
    """`error` has `type`, `param` (the field that is wrong, or null) and `code`."""
    content: dict[str, Any] = error_content(error.code, error.message, error.details)
    kind = _TYPE_OF_STATUS.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    content["error"] |= {"type": kind, "param": _param(error.details)}
    return content


def _param(details: Mapping[str, Any]) -> str | None:
    fields = details.get("fields")
    if isinstance(fields, list) and fields and isinstance(fields[0], Mapping):
        return str(fields[0].get("field"))
    if "field" in details:
        return str(details["field"])
    return "model" if "model" in details else None
