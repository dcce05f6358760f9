"""Sends notices to their receivers: each at least once, under one id, in the order of its subject.

Everything that is known of a delivery stands in Postgres. A settler takes some into hand for a
while, sends them, and writes down what became of it; one that is killed between leaves them to the
next, which sends them under the same id.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import asyncpg
import structlog

from taximeter.settler.books.installation import may_speak
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Pool
from taximeter.settler.notices.addresses import MAILTO
from taximeter.settler.notices.bodies import (
    USER_AGENT,
    Notice,
    signed_headers,
    slack_body,
    webhook_body,
)
from taximeter.settler.notices.mail import Mailer
from taximeter.settler.notices.sealing import Sealer, Unreadable
from taximeter.settler.notices.sending import TIMEOUT_S, HttpSender, Outcome

_SQL: Final = load_queries("notices")
RETRY_S: Final = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Until the next try, after each that failed: ten in about three days."""
TRIES_MAX: Final = len(RETRY_S) + 1
JITTER: Final = 0.1
LEASE_S: Final = 60.0
"""In hand for so long: more than a try may take, and what is written after it."""
WELL_AT_ONCE: Final = 64
FAILING_AT_ONCE: Final = 16
"""Receivers that failed last have places of their own, so that they take none of the others'."""
OF_ONE_AT_ONCE: Final = 4
_REST_MAX_S: Final = 300.0
_SPREAD_AT_ONCE: Final = 500

assert LEASE_S > 3 * TIMEOUT_S
log = structlog.get_logger("taximeter.settler")
Counted = Callable[[str, str], None]


def retry_s(tries: int, asked_s: float = 0.0) -> float | None:
    """Seconds until the next try after so many, or as many as the receiver has asked for; None
    after the last.
    """
    if tries >= TRIES_MAX:
        return None
    return max(RETRY_S[tries - 1] * random.uniform(1 - JITTER, 1 + JITTER), asked_s)


def rest_s(failures: int) -> float:
    """How long a receiver that has now failed so many times in a row is left alone."""
    return float(min(2.0 ** min(failures, 16), _REST_MAX_S))


class Deliverer:
    """Sends for one process. Any number of processes may have one."""

    def __init__(
        self,
        pool: Pool,
        sealer: Sealer,
        sender: HttpSender,
        counted: Counted = lambda kind, outcome: None,
        mailer: Mailer | None = None,
        is_guarded: Callable[[], bool] = lambda: True,
    ) -> None:
        self._pool = pool
        self._sealer = sealer
        self._sender = sender
        self._counted = counted
        self._mailer = mailer
        self._is_guarded = is_guarded
        self._said = ""
        self._kinds = ["webhook", "slack", *(["email"] if mailer else [])]
        self._under_way: dict[bool, set[asyncio.Task[None]]] = {False: set(), True: set()}

    async def round(self) -> None:
        """Give new notices to receivers, take what is due into hand, and begin to send it. Returns
        before that has ended; does nothing where nobody may be told anything. Raises asyncpg
        errors.
        """
        if not await self._may_speak():
            return
        await self.spread()
        for failing, most in ((False, WELL_AT_ONCE), (True, FAILING_AT_ONCE)):
            tasks = self._under_way[failing]
            if (room := most - len(tasks)) <= 0:
                continue
            for row in await self._claim(failing, room):
                task = asyncio.create_task(self._deliver(row))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

    async def _may_speak(self) -> bool:
        """Not before a guardian here has found Redis: it says whether this may be a copy."""
        why = ""
        if not self._is_guarded():
            why = "no shard has been found open yet"
        elif not await may_speak(self._pool):
            why = "this may be a copy: see `taximeter restored`"
        if why != self._said:
            self._said = why
            log.warning("notices", silent=why or "no more")
        return not why

    async def spread(self) -> int:
        """Make deliveries of new notices; returns of how many. Raises asyncpg errors."""
        async with self._pool.acquire() as conn, conn.transaction():
            if not await conn.fetchval(_SQL["spread_alone"]):
                return 0
            rows = await conn.fetch(_SQL["unspread"], _SPREAD_AT_ONCE)
            if not rows:
                return 0
            numbers = [row["n"] for row in rows]
            org_ids = sorted({row["org_id"] for row in rows if row["org_id"] is not None})
            await conn.fetch(_SQL["lock_receivers"], org_ids)
            made = await conn.fetch(_SQL["spread"], numbers)
            await conn.execute(_SQL["start_deliveries"], [row["id"] for row in made])
            await conn.execute(_SQL["mark_spread"], numbers)
            return len(numbers)

    async def idle(self) -> None:
        """Return when nothing is under way in this process."""
        while tasks := self._under_way[False] | self._under_way[True]:
            await asyncio.wait(tasks)

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Let what is under way end within the grace; what does not is sent again by others."""
        tasks = self._under_way[False] | self._under_way[True]
        if tasks:
            await asyncio.wait(tasks, timeout=grace_s)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _claim(self, failing: bool, room: int) -> list[asyncpg.Record]:
        of_one = 1 if failing else OF_ONE_AT_ONCE
        return await self._pool.fetch(
            *(_SQL["claim"], self._sealer.marks, self._kinds, failing),
            *(room, of_one, LEASE_S),
        )

    async def _deliver(self, row: asyncpg.Record) -> None:
        started = time.monotonic()
        try:
            outcome = await self._send(row)
        except Unreadable as error:
            outcome = Outcome(False, error=str(error))
        seconds = time.monotonic() - started
        self._counted(row["kind"], "delivered" if outcome.succeeded else "failed")
        entry = {
            "at": datetime.now(UTC).isoformat(),
            "status": outcome.status,
            "error": outcome.error,
            "seconds": round(seconds, 3),
        }
        try:
            became = await self._pool.fetchval(
                *(_SQL["end_try"], row["delivery"], row["tries"], outcome.succeeded),
                retry_s(row["tries"], outcome.retry_after_s),
                rest_s(row["failures"] + 1),
                json.dumps(entry),
                "gone" if outcome.is_gone else None,
            )
        except Exception as error:
            # It stays in hand until the lease ends, and is sent once more.
            log.warning("notices", failed=type(error).__name__, reason=str(error)[:200])
            return
        if not outcome.succeeded:
            log.info("notices", delivery=row["delivery"], became=became, **entry)

    async def _send(self, row: asyncpg.Record) -> Outcome:
        sealer, mark = self._sealer, row["key_mark"]
        address = sealer.open(row["address"], mark)
        notice = Notice(row["id"], row["type"], row["at"], row["org_id"], json.loads(row["data"]))
        if row["kind"] == "email":
            assert self._mailer is not None, "nothing else is claimed"
            return await self._mailer.send(address.removeprefix(MAILTO), notice)
        headers = {"content-type": "application/json", "user-agent": USER_AGENT}
        if row["kind"] == "slack":
            return await self._sender.post(address, headers, slack_body(notice))
        body = webhook_body(notice)
        sealed = [one for one in (row["secret"], row["old_secret"]) if one is not None]
        secrets = [sealer.open(one, mark) for one in sealed]
        headers |= signed_headers(notice.message_id, body, secrets, datetime.now(UTC))
        return await self._sender.post(address, headers, body)
