"""The upstream provider: one OpenAI-compatible base URL, chosen by the operator."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from taximeter.api.errors import UPSTREAM_ERROR, ApiError
from taximeter.api.settings import SIMULATOR_URL, ApiSettings

logger = logging.getLogger("taximeter.api")

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_CALLERS_FAULT = frozenset({400, 404, 413, 415, 422})
_ERROR_BYTES_MAX = 64 * 1024
CONNECT_TIMEOUT_S = 5.0
# Up to here a body is handed to the connection in one piece; above it the client reads it in parts,
# so that one large request does not hold up the others.
_ONE_PIECE_BYTES_MAX = 1024 * 1024

# Everything that the client raises when the upstream cannot be reached, is silent or breaks off.
FAILURES = (aiohttp.ClientError, OSError)


class Upstream:
    """Opens completions upstream. Everything that goes wrong before the answer begins is an
    ApiError.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, name: str) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/chat/completions"
        self.name = name

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ApiSettings) -> AsyncIterator[Upstream]:
        """A client for the configured upstream; its connections are closed at the end."""
        url = settings.upstream_url
        assert url is not None, "asked only where there is an upstream"
        headers = {
            "User-Agent": "taximeter",
            "Accept": "*/*",
            "Content-Type": "application/json",
        }
        if settings.upstream_api_key is not None:
            headers["Authorization"] = f"Bearer {settings.upstream_api_key.get_secret_value()}"
        silence_s = settings.upstream_timeout_s
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.upstream_connections_max,
                # The authorities that come with the package: images have none of their own.
                ssl=httpx.create_ssl_context(trust_env=False) if _is_https(url) else True,
            ),
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=None,  # A long stream is no fault; a long silence is.
                connect=silence_s + CONNECT_TIMEOUT_S,
                sock_connect=CONNECT_TIMEOUT_S,
                sock_read=silence_s,
            ),
            # One caller's cookie must not come back with the request of another.
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        async with session:
            yield cls(session, url, settings.upstream_name or _name_of(url))

    async def send(self, content: bytes, request_id: str) -> aiohttp.ClientResponse:
        """Start a completion and return its answer, not read yet. Raises ApiError unless its status
        is 200.
        """
        large = len(content) > _ONE_PIECE_BYTES_MAX
        try:
            response = await self._session.post(
                self._url,
                data=io.BytesIO(content) if large else content,
                headers={"X-Request-Id": request_id},
                # A redirect would carry prompts and our key to another place.
                allow_redirects=False,
            )
        except FAILURES as error:
            raise unreachable(error) from error
        if response.status == 200:
            return response
        try:
            raise await _refusal(response)
        finally:
            response.close()

    @staticmethod
    async def read(response: aiohttp.ClientResponse) -> bytes:
        """The whole answer, at most ANSWER_BYTES_MAX. Closes it. Raises ApiError."""
        parts: list[bytes] = []
        size = 0
        try:
            while part := await response.content.readany():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    raise ApiError(502, "The provider's answer is too large", code=UPSTREAM_ERROR)
                parts.append(part)
        except FAILURES as error:
            raise unreachable(error) from error
        finally:
            # A connection whose answer was read to its end is back in the pool by now.
            response.close()
        return b"".join(parts)


def unreachable(error: Exception) -> ApiError:
    """What the caller is told when the upstream failed: the kind of failure, and nothing of our
    inside.
    """
    logger.warning("the upstream failed: %r", error)
    if isinstance(error, TimeoutError):
        return ApiError(504, "The provider did not answer in time", code=UPSTREAM_ERROR)
    return ApiError(502, "The provider could not be reached or broke off", code=UPSTREAM_ERROR)


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    status = response.status
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


def _retry_after(response: aiohttp.ClientResponse) -> str:
    value = response.headers.get("retry-after", "")
    return value if value.isdigit() and len(value) < 6 else "1"


async def _message(response: aiohttp.ClientResponse) -> str:
    content = b""
    try:
        async with asyncio.timeout(5):
            while part := await response.content.readany():
                content += part
                if len(content) > _ERROR_BYTES_MAX:
                    break
        document: Any = json.loads(content)
        error = document["error"]
        return str(error["message"] if isinstance(error, dict) else error)[:500]
    except (*FAILURES, ValueError, KeyError, TypeError, RecursionError):
        return f"status {response.status}"


def _name_of(url: str) -> str:
    if url == SIMULATOR_URL:
        return "simulated"
    return urlsplit(url).hostname or "upstream"


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"
