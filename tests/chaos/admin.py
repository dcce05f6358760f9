"""What people do through the admin API while everything breaks: buy credits and allocate them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from typing import Any, Final

import httpx

from chaos.cluster import ORGS, USERS, Cluster
from chaos.history import Recorder, read_lines
from chaos.scene import Loss
from taximeter.api.tokens import load_dev_key

BILLING: Final = "/api/v1/org-billing"
BOUGHT: Final = 20_000_000
ALLOCATED: Final = (5_000_000, 400_000, 300)
"""Millicredits that the users of an organisation begin with: rich, well off, soon empty."""


class Admin:
    """Talks to the API. Everything is recorded; what was bought is bought once, by its key."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        key = load_dev_key(cluster.folder)
        self._random = random.Random(f"{seed}/admin")
        token = key.mint("boss", ttl_s=36_000, roles=("system_admin",))
        self._client = httpx.AsyncClient(
            base_url=cluster.api_url,
            timeout=5.0,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )
        self._recorder = Recorder(cluster.folder / "admin.jsonl")
        self._numbers = itertools.count()
        self.stopping = False

    async def found(self) -> None:
        """Organisations, members and what they begin with. Raises when the API does not come up."""
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await self._client.get("/api/v1/system/status")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        for org in ORGS:
            body: dict[str, Any] = {
                "org_id": org,
                "plan_code": "professional",
                "org_name": org,
                "billing_email": "billing@example.com",
                "user_id": "boss",
            }
            answer = await self._client.post(f"{BILLING}/subscriptions", json=body)
            assert answer.status_code == 200, answer.text
            assert await self._buy(org, BOUGHT) == "ok"
        for account in USERS:
            org, user = account.split("/")
            body = {"user_id": user, "role": "member"}
            answer = await self._client.post(f"{BILLING}/orgs/{org}/members", json=body)
            assert answer.status_code == 200, answer.text
            assert await self._allocate(org, user, ALLOCATED[int(user[-1])]) == "ok"

    async def run(self) -> None:
        while not self.stopping:
            org, user = self._random.choice(USERS).split("/")
            if self._random.random() < 0.3:
                await self._buy(org, self._random.randint(1, 5_000))
            else:
                await self._allocate(org, user, self._random.randint(1, 3_000))
            await asyncio.sleep(self._random.uniform(0.1, 0.4))

    async def close(self) -> None:
        await self._client.aclose()
        self._recorder.close()

    async def _buy(self, org: str, amount: int) -> str:
        """Until there is an answer, under the same key."""
        key = f"purchase-{next(self._numbers)}"
        body = {"credits": amount / 1000, "purchase_amount": 1.0}
        deadline = time.monotonic() + 30.0
        while True:
            headers = {"Idempotency-Key": key}
            outcome = await self._post("buy", org, key, amount, f"credits/{org}/add", body, headers)
            over = self.stopping or time.monotonic() > deadline
            if outcome in ("ok", "refused") or over:
                return outcome
            await asyncio.sleep(0.3)

    async def _allocate(self, org: str, user: str, amount: int) -> str:
        """Once: without a key, an unknown outcome stays unknown."""
        body = {"user_id": user, "credits": amount / 1000}
        name = f"{org}/{user}/{next(self._numbers)}"
        return await self._post(
            "allocate", f"{org}/{user}", name, amount, f"credits/{org}/allocate", body
        )

    async def _post(
        self,
        op: str,
        what: str,
        key: str,
        amount: int,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> str:
        self._recorder.write("invoke", op=op, on=what, key=key, amount=amount)
        try:
            answer = await self._client.post(f"{BILLING}/{path}", json=body, headers=headers)
            status = answer.status_code
        except httpx.ConnectError:
            status = 0
        except httpx.TransportError:
            status = 599
        outcome = "ok" if status == 200 else "unknown" if status >= 500 else "refused"
        if status == 0:
            outcome = "failed"
        self._recorder.write(
            "answer", op=op, on=what, key=key, amount=amount, outcome=outcome, status=status
        )
        return outcome


@dataclass(slots=True)
class Bounds:
    """What a figure may be, given what was told: at least `low`, at most `high`."""

    low: int = 0
    high: int = 0


def bounds(cluster: Cluster, op: str, losses: list[Loss]) -> dict[str, Bounds]:
    """By organisation (buy) or account (allocate). An acknowledgement since a copy of Postgres that
    was put back later may be gone; an attempt whose outcome is unknown may have counted.
    """
    found: dict[str, Bounds] = {}
    told: dict[str, tuple[str, int, set[str], list[float], list[float]]] = {}
    for line in read_lines(cluster.folder / "admin.jsonl"):
        if line["op"] != op:
            continue
        _, _, outcomes, asked, answered = told.setdefault(
            line["key"], (line["on"], line["amount"], set(), [], [])
        )
        if line["what"] == "invoke":
            asked.append(line["at"])
            outcomes.add("unknown" if len(asked) > len(answered) + 1 else "asked")
        else:
            answered.append(line["at"])
            outcomes.add(line["outcome"])
    for on, amount, outcomes, asked, answered in told.values():
        one = found.setdefault(on, Bounds())
        unknown = "unknown" in outcomes or len(asked) > len(answered)
        acknowledged = "ok" in outcomes
        if acknowledged and not any(
            loss.of == "postgres" and loss.since <= max(answered) and min(asked) <= loss.until
            for loss in losses
        ):
            one.low += amount
        if acknowledged or unknown:
            one.high += amount
    return found
