"""What people do through the admin API while everything breaks: buy credits, allocate them, move
them between members and back to the pool, remove members and take them in again.

Everything with an Idempotency-Key is asked under the same key until there is a definite answer,
sometimes twice at once, and sometimes once more much later.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass
from typing import Any, Final

import httpx

from chaos.cluster import ITS_USERS, ON_CREDIT, ORGS, USERS, Cluster
from chaos.history import Recorder
from taximeter.api.access.dev_tokens import load_dev_key

BILLING: Final = "/api/v1/org-billing"
BOUGHT: Final = 30_000_000
ALLOCATED: Final = (5_000_000, 400_000, 0)
"""Millicredits that the users of an organisation begin with: rich, well off, soon empty."""
MEMBERS_PER_ORG: Final = 3
PATIENCE_S: Final = 30.0
PAUSE_S: Final = 0.3
ROVER: Final = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that is wanted. `effect` names what it leaves in the books, and nothing else does:
    each purchase has a price of its own, each allocation an amount of its own.
    """

    op: str
    on: str
    amount: int
    path: str
    body: dict[str, Any] | None = None
    key: str | None = None
    effect: str = ""


class Admin:
    """Several people, one at each organisation and one who goes from one to the other."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._seed = seed
        token = load_dev_key(cluster.folder).mint("boss", ttl_s=36_000, roles=("system_admin",))
        self._client = httpx.AsyncClient(
            base_url=cluster.api_url,
            timeout=5.0,
            trust_env=False,
            headers={"Authorization": f"Bearer {token}"},
        )
        self._recorder = Recorder(cluster.folder / "admin.jsonl")
        self._numbers = itertools.count(300)
        self._attempts = itertools.count()
        self._done: list[Ask] = []
        self.stopping = False

    async def found(self) -> None:
        """Organisations, members and what they begin with. Raises when the API does not come up."""
        async with asyncio.timeout(60):
            while True:
                try:
                    if (await self._client.get("/readyz")).status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.1)
        for org in (*ORGS, ON_CREDIT):
            body: dict[str, Any] = {
                "org_id": org,
                "plan_code": "professional",
                "org_name": org,
                "billing_email": "billing@example.com",
                "user_id": "boss",
            }
            answer = await self._client.post(f"{BILLING}/subscriptions", json=body)
            assert answer.status_code == 200, answer.text
            assert await self._until_known(self._purchase(org, BOUGHT)) == "ok"
        for account in (*USERS, *ITS_USERS):
            assert await self._until_known(_membership(account, "add")) == "ok"
            amount = ALLOCATED[int(account[-1])]
            assert await self._until_known(self._allocation(account, amount)) == "ok"

    async def run(self) -> None:
        """Until `stopping`; what is asked for by then is brought to its end."""
        await asyncio.gather(*(self._person(org) for org in (*ORGS, ROVER)))

    async def close(self) -> None:
        await self._client.aclose()
        self._recorder.close()

    async def _person(self, home: str) -> None:
        dice = random.Random(f"{self._seed}/admin/{home}")
        while not self.stopping:
            org = home or dice.choice(ORGS)
            roll = dice.random()
            if home and roll < 0.08:
                await self._replace(f"{org}/user-{dice.randrange(MEMBERS_PER_ORG)}", dice)
            elif roll < 0.16 and self._done:
                # A client that repeats an old request: never a second effect.
                await self._post(dice.choice(self._done[-50:]))
            else:
                ask = self._wish(org, dice)
                await asyncio.gather(
                    *(self._until_known(ask) for _ in range(1 + (dice.random() < 0.15)))
                )
            await asyncio.sleep(dice.uniform(0.1, 0.6))

    def _wish(self, org: str, dice: random.Random) -> Ask:
        users = [f"{org}/user-{number}" for number in range(MEMBERS_PER_ORG)]
        kind = dice.choices(("buy", "allocate", "transfer", "deallocate"), (2, 3, 5, 3))[0]
        if kind == "buy":
            return self._purchase(org, dice.randint(1, 5_000))
        if kind == "allocate":
            return self._allocation(dice.choice(users), 0)
        amount, key = dice.randint(1, 40_000), f"{kind}-{next(self._numbers)}"
        source, target = (user.partition("/")[2] for user in dice.sample(users, 2))
        body: dict[str, Any] = {"credits": amount / 1000}
        if kind == "transfer":
            body |= {"from_user_id": source, "to_user_id": target}
            effect = f"transfer {org} {key} {source}>{target} {amount}"
        else:
            body["user_id"] = source
            effect = f"deallocation {org} {key} {source}> {amount}"
        return Ask(kind, f"{org}/{source}", amount, f"credits/{org}/{kind}", body, key, effect)

    def _purchase(self, org: str, amount: int) -> Ask:
        cents = next(self._numbers)
        body = {"credits": amount / 1000, "purchase_amount": cents / 100}
        path, key = f"credits/{org}/add", f"buy-{cents}"
        return Ask("buy", org, amount, path, body, key, f"buy {org} {cents}")

    def _allocation(self, account: str, least: int) -> Ask:
        number = next(self._numbers)
        amount, (org, user) = least + number, account.split("/")
        body = {"user_id": user, "credits": amount / 1000}
        path, key = f"credits/{org}/allocate", f"allocate-{number}"
        return Ask("allocate", account, amount, path, body, key, f"allocate {account} {amount}")

    async def _replace(self, account: str, dice: random.Random) -> None:
        """A member goes while their requests run, and comes back to a new allocation."""
        await self._until_known(_membership(account, "remove"))
        await asyncio.sleep(dice.uniform(0.0, 0.5))
        await self._until_known(_membership(account, "add"))
        await self._until_known(self._allocation(account, ALLOCATED[int(account[-1])] // 2))

    async def _until_known(self, ask: Ask) -> str:
        """Until there is a definite answer, under the same key, or patience is over."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            outcome = await self._post(ask)
            if outcome == "ok" and ask.key is not None:
                self._done.append(ask)
            if outcome in ("ok", "refused") or time.monotonic() > deadline:
                return outcome
            await asyncio.sleep(PAUSE_S)

    async def _post(self, ask: Ask) -> str:
        attempt = str(next(self._attempts))
        self._recorder.write("invoke", attempt=attempt, op=ask.op, on=ask.on, amount=ask.amount,
                             effect=ask.effect)  # fmt: skip
        method = "DELETE" if ask.op == "remove" else "POST"
        headers = {} if ask.key is None else {"Idempotency-Key": ask.key}
        try:
            answer = await self._client.request(
                method, f"{BILLING}/{ask.path}", json=ask.body, headers=headers
            )
            status = answer.status_code
            outcome = "ok" if status == 200 else "unknown" if status >= 500 else "refused"
        except (httpx.ConnectError, httpx.ConnectTimeout):
            status, outcome = 0, "failed"
        except httpx.TransportError:
            status, outcome = 599, "unknown"
        self._recorder.write("answer", attempt=attempt, outcome=outcome, status=status)
        return outcome


def _membership(account: str, op: str) -> Ask:
    org, user = account.split("/")
    if op == "remove":
        return Ask(op, account, 0, f"orgs/{org}/members/{user}")
    return Ask(op, account, 0, f"orgs/{org}/members", {"user_id": user, "role": "member"})
