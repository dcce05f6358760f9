"""Asks the admin API as any other client does: over HTTP, with a session token."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import httpx

BASE = "/api/v1/org-billing"


class DemoFailed(RuntimeError):
    """Something was not as it must be."""


class Admin:
    """A session of one user. Amounts are credits."""

    def __init__(self, client: httpx.AsyncClient, token: str) -> None:
        self._client = client
        self._headers = {"Cookie": f"session_token={token}"}

    async def call(self, method: str, path: str, **options: Any) -> Any:
        """One request. Raises DemoFailed unless it answers 2xx."""
        response = await self._client.request(method, path, headers=self._headers, **options)
        if not response.is_success:
            raise DemoFailed(f"{method} {path} answered {response.status_code}: {response.text}")
        return response.json()

    async def subscribe(self, org_id: str, name: str, credits_bought: Decimal, admin: str) -> Any:
        return await self.call(
            "POST",
            f"{BASE}/subscriptions",
            json={
                "org_id": org_id,
                "plan_code": "professional",
                "org_name": name,
                "billing_email": f"billing@{org_id}.example",
                "initial_credits": float(credits_bought),
                "user_id": admin,
            },
        )

    async def allocate(self, org_id: str, user_id: str, amount: Decimal) -> Any:
        return await self.call(
            "POST",
            f"{BASE}/credits/{org_id}/allocate",
            json={"user_id": user_id, "credits": float(amount)},
        )

    async def add_member(self, org_id: str, user_id: str) -> Any:
        return await self.call(
            "POST", f"{BASE}/orgs/{org_id}/members", json={"user_id": user_id, "role": "member"}
        )

    async def pool(self, org_id: str) -> Any:
        return await self.call("GET", f"{BASE}/credits/{org_id}")

    async def allocations(self, org_id: str) -> Any:
        answer = await self.call("GET", f"{BASE}/credits/{org_id}/allocations?limit=100")
        return answer["allocations"]

    async def usage(self, org_id: str) -> Any:
        return await self.call("GET", f"{BASE}/credits/{org_id}/usage")
