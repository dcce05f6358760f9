"""Writes audit rows of charges that were refused for want of credits."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import asyncpg

from taximeter.api.billing.audit import write_audit
from taximeter.api.web.background import TaskTracker
from taximeter.meter.wire.bounded_cache import BoundedCache
from taximeter.settler.books.stores import Pool

logger = logging.getLogger("taximeter.api")

ACCOUNTS_REMEMBERED_MAX = 10_000
PAUSE_S = 60.0


class RefusalAudit:
    """Writes `credit.deduction.failed` for an account, at most once a minute and process, and how
    many more there were meanwhile: a client that hammers on an empty balance fills no table.

    Rows are written beside the request. One that cannot be written is logged and lost: nothing was
    charged.
    """

    def __init__(
        self, pool: Pool, tracker: TaskTracker, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._pool = pool
        self._tracker = tracker
        self._clock = clock
        # When the last row was written, and how many refusals there were since.
        self._accounts: BoundedCache[tuple[str, str], tuple[float, int]] = BoundedCache(
            ACCOUNTS_REMEMBERED_MAX
        )

    def note(self, org_id: str, user_id: str, *, need: int, have: int, request_id: str) -> None:
        """One refused request. Amounts are millicredits. Awaits nothing."""
        account, now = (org_id, user_id), self._clock()
        written_at, unwritten = self._accounts.get(account, (float("-inf"), 0))
        if now - written_at < PAUSE_S:
            self._accounts[account] = (written_at, unwritten + 1)
            return
        self._accounts.keep(account, (now, 0))
        self._tracker.spawn(self._write(org_id, user_id, need, have, unwritten, request_id))

    async def _write(
        self, org_id: str, user_id: str, need: int, have: int, unwritten: int, request_id: str
    ) -> None:
        try:
            async with self._pool.acquire() as conn:
                await write_audit(
                    conn,
                    actor=user_id,
                    action="credit.deduction.failed",
                    org_id=org_id,
                    target=user_id,
                    before={"available_credits": have},
                    after={
                        "available_credits": have,
                        "needed_credits": need,
                        "refused_since_last_row": unwritten,
                    },
                    request_id=request_id,
                )
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            logger.warning("the refusal of %s was not written to the audit log", request_id)
