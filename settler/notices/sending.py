"""Sends one HTTP request to a receiver, within a time and to outer addresses alone."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractResolver

from taximeter.settler.notices.addresses import GuardedResolver, ThreadsResolver, check_url

TIMEOUT_S: Final = 15.0
_GONE: Final = 410
_BUSY: Final = frozenset({429, 503})
_RETRY_AFTER_MAX_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a try. `is_gone`: it is to be told nothing any more."""

    succeeded: bool
    status: int | None = None
    error: str | None = None
    is_gone: bool = False
    retry_after_s: float = 0.0


class HttpSender:
    """Sends to URLs that anybody may have made up. Names are resolved once a request and every
    address is checked; the connection goes to one of these, with the name in TLS and in Host. No
    redirect is followed, no proxy of the environment is used, and no more than the head of the
    answer is read. `anywhere`: inner addresses too, and plain HTTP.
    """

    def __init__(
        self,
        *,
        anywhere: bool = False,
        timeout_s: float = TIMEOUT_S,
        tls: ssl.SSLContext | None = None,
        resolver: AbstractResolver | None = None,
    ) -> None:
        self._anywhere = anywhere
        self._timeout_s = timeout_s
        self._tls = tls
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        names = self._resolver or ThreadsResolver()
        connector = aiohttp.TCPConnector(
            resolver=names if self._anywhere else GuardedResolver(names),
            use_dns_cache=False,
            force_close=True,
            limit=0,
            ssl=self._tls or True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, url: str, headers: Mapping[str, str], body: str) -> Outcome:
        """What the receiver has answered, or why it has not. Raises nothing but CancelledError."""
        assert self._session is not None, "used within `async with`"
        try:
            check_url(url, anywhere=self._anywhere)
            async with self._session.post(
                url, data=body.encode(), headers=headers, allow_redirects=False
            ) as answer:
                return _outcome(answer)
        except TimeoutError:
            return Outcome(False, error=f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            return Outcome(False, error=f"{type(cause).__name__}: {cause}"[:300])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(False, error=f"{type(error).__name__}: {error}"[:300])


def _outcome(answer: aiohttp.ClientResponse) -> Outcome:
    status = answer.status
    if 200 <= status < 300:
        return Outcome(True, status)
    after = answer.headers.get("Retry-After", "") if status in _BUSY else ""
    wait_s = min(float(after), _RETRY_AFTER_MAX_S) if after.isdecimal() and len(after) < 9 else 0.0
    error = "a redirect, which is not followed" if 300 <= status < 400 else None
    return Outcome(False, status, error, is_gone=status == _GONE, retry_after_s=wait_s)
