"""Fetches and keeps the public keys of an OIDC issuer, without ever being made to hammer it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import jwt

from taximeter.api.settings.oidc import is_safe_url

logger = logging.getLogger("taximeter.api.access.sessions")

KEYS_MAX = 64
BODY_BYTES_MAX = 256 * 1024
DISCOVERY_PATH = "/.well-known/openid-configuration"


class KeysUnavailable(Exception):
    """The issuer's keys could not be fetched, and none are kept."""


async def discover(client: httpx.AsyncClient, issuer: str) -> dict[str, Any]:
    """The issuer's own document about itself. Raises httpx.HTTPError and ValueError."""
    url = issuer.rstrip("/") + DISCOVERY_PATH
    document = json.loads(await _get(client, url))
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError(f"{url} is the document of another issuer")
    return document


def place_in(document: Mapping[str, Any], name: str) -> str:
    """An address that the document names. Raises ValueError for one that is not safe to ask."""
    found = document.get(name)
    if not isinstance(found, str) or not is_safe_url(found):
        raise ValueError(f"{DISCOVERY_PATH} names no {name} that starts with https://")
    return found


async def _get(client: httpx.AsyncClient, url: str) -> bytes:
    response = await client.get(url, follow_redirects=False, timeout=5.0)
    if response.status_code != 200:
        raise ValueError(f"status {response.status_code} of {url}")
    if len(response.content) > BODY_BYTES_MAX:
        raise ValueError(f"more than {BODY_BYTES_MAX} bytes from {url}")
    return response.content


class KeySet:
    """Keys by id, from `url` or, without one, from where the issuer's discovery document says.

    A token that names an unknown id causes one look at most each `min_interval_s`. One that fails
    leaves the keys as they are: an issuer that is down for a while logs nobody out.
    """

    def __init__(
        self,
        url: str | None,
        client: httpx.AsyncClient,
        *,
        issuer: str = "",
        algorithms: Sequence[str],
        ttl_s: float = 300.0,
        min_interval_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._issuer = issuer
        self._client = client
        self._algorithms = tuple(algorithms)
        self._ttl_s = ttl_s
        self._min_interval_s = min_interval_s
        self._clock = clock
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str) -> jwt.PyJWK | None:
        """The key of this id, or None when the issuer has no such key. Raises KeysUnavailable."""
        if self._wanted(key_id):
            async with self._fetching:  # One caller fetches, the others find what it brought.
                if self._wanted(key_id):
                    await self._fetch()
        if not self._keys:
            raise KeysUnavailable("the keys of the identity provider could not be fetched")
        return self._keys.get(key_id)

    def _wanted(self, key_id: str) -> bool:
        now = self._clock()
        stale = now - self._fetched_at > self._ttl_s
        return (stale or key_id not in self._keys) and now - self._tried_at >= self._min_interval_s

    async def _fetch(self) -> None:
        self._tried_at = self._clock()
        try:
            keys = self._read(await _get(self._client, self._url or await self._discover()))
        except (httpx.HTTPError, ValueError) as error:
            logger.warning("the keys of the identity provider could not be fetched: %r", error)
            return
        self._keys = keys
        self._fetched_at = self._clock()

    async def _discover(self) -> str:
        """Where the issuer's keys are, as its own document says; asked for whenever they are."""
        return place_in(await discover(self._client, self._issuer), "jwks_uri")

    def _read(self, content: bytes) -> dict[str, jwt.PyJWK]:
        document = json.loads(content)
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise ValueError("the document has no list of keys")
        keys: dict[str, jwt.PyJWK] = {}
        for one in listed[:KEYS_MAX]:
            if not isinstance(one, dict) or one.get("use", "sig") != "sig":
                continue
            if not isinstance(one.get("kid"), str) or one.get("kty") == "oct":
                continue
            try:
                key = jwt.PyJWK(one)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue  # A kind of key that we do not use.
            if key.algorithm_name in self._algorithms:
                keys[one["kid"]] = key
        if not keys:
            raise ValueError("the document has no key that we can use")
        return keys
