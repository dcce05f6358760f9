"""Reads the JSON bodies of routes with their numbers as they were written."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from taximeter.api.web.errors import ApiError
from taximeter.api.web.json_numbers import parse_json


class _ExactRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


def _is_json(content_type: str) -> bool:
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (
        kind.startswith("application/") and kind.endswith("+json")
    )


class ExactRoute(APIRoute):
    """A route whose JSON body keeps its numbers as they were written. A body of another type is
    refused with 415: read as text, it would be none of the fields.
    """

    async def before_body(self, request: Request) -> None:
        """Refuse a request whose body need not be read, by raising ApiError."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def with_exact_numbers(request: Request) -> Response:
            if self.body_field is not None:
                await self.before_body(request)
            said = request.headers.get("content-type", "")
            has_body = request.headers.get("content-length", "0") != "0" or (
                "transfer-encoding" in request.headers
            )
            if self.body_field is not None and has_body and not _is_json(said):
                raise ApiError.of("not_json", details={"field": "Content-Type"})
            return await handle(_ExactRequest(request.scope, request.receive))

        return with_exact_numbers
