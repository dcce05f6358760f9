"""A browser as far as cookies and redirects go: what is Secure comes back, as over TLS."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.cookies import Morsel, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

import httpx


@dataclass
class Browser:
    """`kept` are its cookies; `set` is how each was set last."""

    client: httpx.AsyncClient
    kept: dict[str, str] = field(default_factory=dict)
    set: dict[str, Morsel[str]] = field(default_factory=dict)

    async def ask(self, method: str, address: str, **options: Any) -> httpx.Response:
        """Ask for an address of ours, whatever its origin is."""
        parts = urlsplit(address)
        cookies = "; ".join(f"{name}={value}" for name, value in self.kept.items())
        answer = await self.client.request(
            method,
            parts.path + (f"?{parts.query}" if parts.query else ""),
            headers={
                "Sec-Fetch-Site": "same-origin",
                **({"Cookie": cookies} if cookies else {}),
                **options.pop("headers", {}),
            },
            **options,
        )
        for line in answer.headers.get_list("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                self.set[name] = morsel
                if morsel["max-age"] == "0":
                    self.kept.pop(name, None)
                else:
                    self.kept[name] = morsel.value
        return answer

    async def get(self, address: str, **options: Any) -> httpx.Response:
        return await self.ask("GET", address, **options)

    async def post(self, address: str, **options: Any) -> httpx.Response:
        return await self.ask("POST", address, **options)

    async def session(self) -> dict[str, Any]:
        answer = await self.get("/console/session")
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said
