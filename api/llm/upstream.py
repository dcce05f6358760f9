"""The upstream provider: one OpenAI-compatible base URL, chosen by the operator."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from taximeter.api.errors import UPSTREAM_ERROR, ApiError
from taximeter.api.settings import SIMULATOR_URL, ApiSettings

logger = logging.getLogger("taximeter.api")

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_CALLERS_FAULT = frozenset({400, 404, 413, 415, 422})
_ERROR_BYTES_MAX = 64 * 1024
CONNECT_TIMEOUT_S = 5.0


class Upstream:
    """Opens completions upstream. Everything that goes wrong before the answer begins is an
    ApiError.
    """

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self._client = client
        self.name = name

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ApiSettings) -> AsyncIterator[Upstream]:
        """A client for the configured upstream; its connections are closed at the end."""
        url = settings.upstream_url
        assert url is not None, "asked only where there is an upstream"
        headers = {"User-Agent": "taximeter"}
        if settings.upstream_api_key is not None:
            headers["Authorization"] = f"Bearer {settings.upstream_api_key.get_secret_value()}"
        client = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=httpx.Timeout(settings.upstream_timeout_s, connect=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(
                max_connections=settings.upstream_connections_max,
                max_keepalive_connections=settings.upstream_connections_max,
            ),
            follow_redirects=False,  # A redirect would carry prompts and our key to another place.
            trust_env=False,
        )
        async with client:
            yield cls(client, settings.upstream_name or _name_of(url))

    async def send(self, content: bytes, request_id: str) -> httpx.Response:
        """Start a completion and return its answer, not read yet. Raises ApiError unless its status
        is 200.
        """
        request = self._client.build_request(
            "POST",
            "chat/completions",
            content=content,
            headers={"Content-Type": "application/json", "X-Request-Id": request_id},
        )
        try:
            response = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        if response.status_code == 200:
            return response
        try:
            raise await _refusal(response)
        finally:
            await response.aclose()

    @staticmethod
    async def read(response: httpx.Response) -> bytes:
        """The whole answer, at most ANSWER_BYTES_MAX. Closes it. Raises ApiError."""
        parts: list[bytes] = []
        size = 0
        try:
            async for part in response.aiter_bytes():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    raise ApiError(502, "The provider's answer is too large", code=UPSTREAM_ERROR)
                parts.append(part)
        except httpx.HTTPError as error:
            raise unreachable(error) from error
        finally:
            await response.aclose()
        return b"".join(parts)


def unreachable(error: httpx.HTTPError) -> ApiError:
    """What the caller is told when the upstream failed: the kind of failure, and nothing of our
    inside.
    """
    logger.warning("the upstream failed: %r", error)
    if isinstance(error, httpx.TimeoutException):
        return ApiError(504, "The provider did not answer in time", code=UPSTREAM_ERROR)
    return ApiError(502, "The provider could not be reached or broke off", code=UPSTREAM_ERROR)


async def _refusal(response: httpx.Response) -> ApiError:
    status = response.status_code
    if status == 429:
        return ApiError(
            429,
            "The provider is limiting requests",
            details={"reason": "upstream_rate_limit"},
            headers={"Retry-After": _retry_after(response)},
        )
    if status in _CALLERS_FAULT:
        said = await _message(response)
        return ApiError(
            400 if status == 415 else status,
            f"The provider refused the request: {said}",
            code="UPSTREAM_REFUSED",
            details={"upstream_status": status},
        )
    # 401 and 403 are about our key, which is not the caller's business.
    logger.warning("the upstream answered %d", status)
    return ApiError(
        502, "The provider failed", code=UPSTREAM_ERROR, details={"upstream_status": status}
    )


def _retry_after(response: httpx.Response) -> str:
    value = response.headers.get("retry-after", "")
    return value if value.isdigit() and len(value) < 6 else "1"


async def _message(response: httpx.Response) -> str:
    content = b""
    try:
        async with asyncio.timeout(5):
            async for part in response.aiter_bytes():
                content += part
                if len(content) > _ERROR_BYTES_MAX:
                    break
        document: Any = json.loads(content)
        error = document["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (httpx.HTTPError, TimeoutError, ValueError, KeyError, TypeError, RecursionError):
        return f"status {response.status_code}"


def _name_of(url: str) -> str:
    if url == SIMULATOR_URL:
        return "simulated"
    return urlsplit(url).hostname or "upstream"
