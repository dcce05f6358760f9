"""A whole API on real sockets, and short words for what callers do to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette

from support.listening import listening
from taximeter.api.access.dev_tokens import load_dev_key
from taximeter.api.settings.api import ApiSettings
from taximeter.meter import Balance
from taximeter.settler.books.stores import Stores
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.check import check
from taximeter.settler.settling.settle import settle_shard

BILLING = "/api/v1/org-billing"
CHAT = "/api/v1/llm/chat/completions"
SHARDS = 2


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve an application on a free port of the loopback, in this event loop."""
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, ws="none", log_config=None, timeout_graceful_shutdown=5
    )
    async with listening(uvicorn.Server(config)) as url:
        yield url


NOTHING_ENDED: dict[str, Any] = {"keys_ended": [], "keys_kept": [], "invitations_withdrawn": 0}
"""In the answer of a removal: no keys and no invitations ended with it."""


@dataclass
class World:
    """One running API, and short words for what callers do to it.

    Each part has the rights that it has in production: the API those of `taximeter_app`, what
    settles (`settling`) those of `taximeter_settler`. `stores` are the owner's, for what an
    operator does by hand.
    """

    url: str
    client: httpx.AsyncClient
    stores: Stores
    settling: Stores
    settings: ApiSettings
    simulator: Starlette
    app: Any

    def token(self, user: str, *, system_admin: bool = False, ttl_s: int = 600) -> str:
        key = load_dev_key(self.settings.data_dir)
        roles = (self.settings.admin_role,) if system_admin else ()
        return key.mint(user, ttl_s=ttl_s, roles=roles)

    def auth(self, user: str, *, system_admin: bool = False) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user, system_admin=system_admin)}"}

    @property
    def root(self) -> dict[str, str]:
        return self.auth("root", system_admin=True)

    async def subscribe(
        self, org: str = "acme", admin: str = "boss", credits: float | None = 100.0
    ) -> httpx.Response:
        body: dict[str, Any] = {
            "org_id": org,
            "plan_code": "professional",
            "org_name": f"The {org} company",
            "billing_email": "billing@example.com",
            "user_id": admin,
        }
        if credits is not None:
            body["initial_credits"] = credits
        return await self.client.post(f"{BILLING}/subscriptions", json=body, headers=self.root)

    async def add_member(self, user: str, org: str = "acme", role: str = "member") -> None:
        """A member at once: a system admin adds without an invitation."""
        response = await self.client.post(
            f"{BILLING}/orgs/{org}/members",
            json={"user_id": user, "role": role},
            headers=self.root,
        )
        assert response.status_code == 200, response.text

    async def allocate(
        self, user: str, credits: float, org: str = "acme", by: str = "boss"
    ) -> httpx.Response:
        return await self.client.post(
            f"{BILLING}/credits/{org}/allocate",
            json={"user_id": user, "credits": credits},
            headers=self.auth(by),
        )

    async def funded(self, user: str = "ann", credits: float = 50.0, org: str = "acme") -> None:
        """An organisation with a member who has credits, live."""
        assert (await self.subscribe(org)).status_code == 200
        await self.add_member(user, org)
        assert (await self.allocate(user, credits, org)).status_code == 200
        await relay(self.settling)

    async def chat(
        self, user: str = "ann", *, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        body = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": "Hello"}],
            **body,
        }
        return await self.client.post(
            CHAT, json=body, headers={**self.auth(user), **(headers or {})}
        )

    async def balance(self, user: str = "ann", org: str = "acme") -> Balance:
        meter = await self.app.state.services.meters.get()
        found: Balance = await meter.balance(org, user)
        return found

    async def settle(self) -> None:
        await relay(self.settling)
        for shard in range(SHARDS):
            await settle_shard(self.settling, shard)

    async def charges(self, org: str = "acme") -> list[dict[str, Any]]:
        """What is booked, oldest first, after settling everything."""
        await self.settle()
        rows = await self.stores.pool.fetch(
            "SELECT *, request_metadata::text AS metadata FROM credit_usage_attribution"
            " WHERE org_id = $1 ORDER BY created_at, id",
            org,
        )
        return [dict(row) for row in rows]

    async def prove(self) -> None:
        await self.settle()
        report = await check(self.settling)
        assert report.holds, [one for one in report.invariants if not one.holds]

    @property
    def upstream_calls(self) -> int:
        count: int = self.simulator.state.requests
        return count
