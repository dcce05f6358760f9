"""Calls the sidecar for the logger: one operation a call, over TCP or a Unix socket.

Needs aiohttp, which the extra `litellm` brings and LiteLLM has anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from taximeter.meter.litellm.settings import LiteLLMSettings

KEEPALIVE_S: Final = 3.0
"""Below the sidecar's own 5 s: an idle connection is never used while the other side closes it."""


class Answer(NamedTuple):
    """What the sidecar said. Status 0: nothing came, so whether it was done is not known."""

    status: int
    body: Mapping[str, Any]

    @property
    def code(self) -> str:
        """The code of a refusal, for programs."""
        error = self.body.get("error")
        return str(error.get("code", "")) if isinstance(error, Mapping) else ""

    @property
    def is_final(self) -> bool:
        """Whether trying again cannot change the answer. A wrong key or an account that is not
        loaded can be put right while a charge waits.
        """
        return self.status in (200, 400, 409, 413) or self.code == "UNKNOWN_HOLD"


class SidecarClient:
    """Calls the sidecar. Connections are kept per event loop, which LiteLLM has one of."""

    def __init__(self, settings: LiteLLMSettings) -> None:
        self._url = settings.sidecar_url.rstrip("/")
        self._key = settings.sidecar_key
        self._timeout_s = settings.timeout_s
        self._session: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(
        self, op: str, fields: Mapping[str, Any], trace: Mapping[str, str] | None = None
    ) -> Answer:
        """Do one operation, with the headers of a trace. Never raises for what happens on the way:
        see Answer.status.
        """
        import aiohttp

        try:
            async with self._connected(aiohttp).post(
                f"/v1/{op}", json=fields, headers=trace
            ) as response:
                body = await response.json(content_type=None)
                return Answer(response.status, body if isinstance(body, dict) else {})
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return Answer(0, {})

    def _connected(self, aiohttp: Any) -> Any:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._loop is not loop:
            is_unix = self._url.startswith("unix://")
            path = self._url.removeprefix("unix://")
            self._session = aiohttp.ClientSession(
                "http://sidecar" if is_unix else self._url,
                connector=aiohttp.UnixConnector(path, keepalive_timeout=KEEPALIVE_S)
                if is_unix
                else aiohttp.TCPConnector(keepalive_timeout=KEEPALIVE_S),
                timeout=aiohttp.ClientTimeout(total=self._timeout_s),
                headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
                trust_env=False,
            )
            self._loop = loop
        return self._session
