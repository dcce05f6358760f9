"""Calls one provider of the operator's: its address, its key, its connections and its time-outs."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx

from taximeter.api.openai.json_members import object_of
from taximeter.api.upstreams.answer_body import AnswerBody
from taximeter.api.upstreams.config import UpstreamConfig
from taximeter.api.upstreams.failures import FAILURES, no_connection_free, refused, unreachable
from taximeter.api.upstreams.resting import Rest
from taximeter.api.upstreams.upstream_times import Durations, UpstreamTimes, outcome_of
from taximeter.api.web.errors import ApiError
from taximeter.api.web.fair_shares import ConnectionShare, ConnectionShares

ANSWER_BYTES_MAX = 64 * 1024 * 1024
_ERROR_BYTES_MAX = 64 * 1024
_ERROR_CHARACTERS_MAX = 500
_ERROR_TIMEOUT_S = 5.0
# Up to here a body is handed to the connection in one piece; above it the client reads it in parts,
# so that one large request does not hold up the others.
_ONE_PIECE_BYTES_MAX = 1024 * 1024
_HIDDEN = "[hidden]"


def _nobody_asks() -> None:
    pass


def _telling_what_went_out() -> aiohttp.TraceConfig:
    """Calls what stands as context of a request as soon as the request was written."""

    async def tell(_: object, context: Any, __: object) -> None:
        if (went_out := context.trace_request_ctx) is not None:
            went_out()

    trace = aiohttp.TraceConfig()
    trace.on_request_headers_sent.append(tell)
    return trace


class Opened:
    """An answer that has begun, not read yet. Whoever gets it closes it: until then it has one of
    the upstream's connections.
    """

    __slots__ = ("_asked_at", "_connection", "_whole", "body", "response")

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        body: AnswerBody,
        connection: ConnectionShare,
        asked_at: float,
        whole: Durations,
    ) -> None:
        self.response = response
        self.body = body
        self._connection = connection
        self._asked_at = asked_at
        self._whole: Durations | None = whole

    def close(self) -> None:
        """Stop the upstream, and let others have the connection. One that was read to its end is
        back in the pool by then.
        """
        self.body.close()
        self.response.close()
        self._connection.release()
        if self._whole is not None:
            self._whole.note(time.perf_counter() - self._asked_at)
            self._whole = None


class Upstream:
    """Opens answers of one provider. Everything that goes wrong before an answer begins is an
    UpstreamFailure.
    """

    def __init__(self, session: aiohttp.ClientSession, config: UpstreamConfig) -> None:
        self._session = session
        self._config = config
        secret = config.secret()
        # A short key would be found in any text.
        self._secret = secret.encode() if secret is not None and len(secret) >= 8 else None
        self._sending_timeout_s = config.connect_timeout_s + 3 * config.first_byte_timeout_s
        self.name = config.name
        address = urlsplit(config.base_url)
        self.host = address.netloc
        self.server = address.hostname or ""
        self.port = address.port or (443 if address.scheme == "https" else 80)
        self.provider = config.provider
        self.region = config.region
        self.rest = Rest(config.rest_after_failures, config.rest_s)
        self._connections = ConnectionShares(config.connections_max)
        self.retries = config.retries
        self.limit_field = config.output_limit_field
        self._last = "ok"
        self.times = UpstreamTimes()

    @property
    def connections(self) -> dict[str, int]:
        """How many of its connections are used, how many there may be, and who waits."""
        return self._connections.counts

    @property
    def health(self) -> str:
        """A word for its last answer: `ok`, `resting`, `unreachable`, `refuses_us` or `fails`."""
        return "resting" if self.rest.rests else self._last

    @classmethod
    @asynccontextmanager
    async def open(cls, config: UpstreamConfig) -> AsyncIterator[Upstream]:
        """A client with connections of its own, closed at the end."""
        headers = {
            **config.headers,
            "User-Agent": "taximeter",
            "Accept": "*/*",
            "Content-Type": "application/json",
        }
        if (secret := config.secret()) is not None:
            is_bearer = config.key_header.lower() == "authorization"
            headers[config.key_header] = f"Bearer {secret}" if is_bearer else secret
        is_https = config.base_url.startswith("https:")
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=config.connections_max,
                # The authorities that come with the package: images have none of their own.
                ssl=httpx.create_ssl_context(trust_env=False) if is_https else True,
            ),
            headers=headers,
            timeout=aiohttp.ClientTimeout(
                total=None,  # A long stream is no fault; a long silence is, and is watched here.
                connect=config.first_byte_timeout_s + config.connect_timeout_s,
                sock_connect=config.connect_timeout_s,
                sock_read=config.first_byte_timeout_s,
            ),
            # One caller's cookie must not come back with the request of another.
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[_telling_what_went_out()],
            trust_env=False,
        )
        async with session:
            yield cls(session, config)

    async def send(
        self,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        payer: tuple[str, str],
        went_out: Callable[[], None] = _nobody_asks,
    ) -> Opened:
        """Ask for this account, when there is a connection for it, and return the answer.
        `went_out` is called when the head of the request was written. Raises UpstreamFailure unless
        the status is 200.
        """
        try:
            async with asyncio.timeout(self._config.first_byte_timeout_s):
                connection = await self._connections.acquire(*payer)
        except TimeoutError:
            self.times.outcomes["no_room"] += 1
            raise no_connection_free(self.name) from None
        asked_at = time.perf_counter()
        try:
            response = await self._post(path, content, headers, went_out)
            self.times.first_byte.note(time.perf_counter() - asked_at)
            body = AnswerBody(
                response,
                silence_s=self._config.silence_timeout_s,
                answer_s=self._config.answer_timeout_s,
            )
            return Opened(response, body, connection, asked_at, self.times.whole)
        except BaseException:
            connection.release()
            raise

    async def _post(
        self,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        went_out: Callable[[], None],
    ) -> aiohttp.ClientResponse:
        try:
            # Connecting and the first byte have limits of their own, which tell more. This one is
            # for an upstream that takes the connection and then not the body.
            async with asyncio.timeout(self._sending_timeout_s):
                response = await self._session.post(
                    f"{self._config.base_url}{path}",
                    data=io.BytesIO(content) if len(content) > _ONE_PIECE_BYTES_MAX else content,
                    headers=headers,
                    trace_request_ctx=went_out,
                    # A redirect would carry prompts and our key to another place.
                    allow_redirects=False,
                )
        except FAILURES as error:
            self._last = "unreachable"
            self.times.outcomes["unreachable"] += 1
            raise unreachable(error, self.name) from None
        self._last = _word_of(response.status)
        self.times.outcomes[outcome_of(response.status)] += 1
        if response.status == 200:
            return response
        try:
            message = await self._message(response)
            after = response.headers.get("retry-after", "")
            raise refused(response.status, message, after, self.name)
        finally:
            response.close()

    async def read(self, opened: Opened) -> bytes:
        """The whole answer, at most ANSWER_BYTES_MAX. Closes it. Raises ApiError."""
        parts: list[bytes] = []
        size = 0
        try:
            while part := await opened.body.part():
                size += len(part)
                if size > ANSWER_BYTES_MAX:
                    words = "The provider's answer is too large"
                    raise ApiError.of("upstream_failed", words=words)
                parts.append(part)
        except FAILURES as error:
            raise unreachable(error, self.name) from None
        finally:
            opened.close()
        return self.without_key(b"".join(parts))

    def without_key(self, content: bytes) -> bytes:
        """What the upstream sent, without the key, should it repeat it."""
        if self._secret is None or self._secret not in content:
            return content
        return content.replace(self._secret, _HIDDEN.encode())

    def hidden(self, text: str) -> str:
        """The same for text."""
        return self.without_key(text.encode("utf-8", "surrogateescape")).decode(
            "utf-8", "surrogateescape"
        )

    async def models(self) -> list[str]:
        """The names of its models. Raises UpstreamFailure."""
        try:
            async with asyncio.timeout(self._config.connect_timeout_s + _ERROR_TIMEOUT_S):
                response = await self._session.get(
                    f"{self._config.base_url}/models", allow_redirects=False
                )
                try:
                    if response.status != 200:
                        raise refused(response.status, "", "", self.name)
                    document = object_of(await response.content.read(ANSWER_BYTES_MAX))
                finally:
                    response.close()
        except FAILURES as error:
            raise unreachable(error, self.name) from None
        listed = document.get("data")
        entries = listed if isinstance(listed, list) else []
        names = [one.get("id") for one in entries if isinstance(one, dict)]
        return [name for name in names if isinstance(name, str)]

    async def _message(self, response: aiohttp.ClientResponse) -> str:
        content = b""
        try:
            async with asyncio.timeout(_ERROR_TIMEOUT_S):
                while part := await response.content.readany():
                    content += part
                    if len(content) > _ERROR_BYTES_MAX:
                        break
        except FAILURES:
            return f"status {response.status}"
        error = object_of(content).get("error")
        message = error.get("message") if isinstance(error, dict) else error
        if not isinstance(message, str):
            return f"status {response.status}"
        return self.hidden(message.encode("utf-8", "replace").decode())[:_ERROR_CHARACTERS_MAX]


def _word_of(status: int) -> str:
    """What a status says of the provider, where a refusal of a caller's request says nothing."""
    if status in (401, 402, 403):
        return "refuses_us"
    return "fails" if status >= 500 else "ok"
