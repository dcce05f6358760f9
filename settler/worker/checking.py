"""Seals, proves and says what it has found: the settler's look at the books, again and again."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog

from taximeter.settler.archive.places import Place, open_place
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Session, Stores
from taximeter.settler.proof.check import CheckLimits, Report, check
from taximeter.settler.proof.reconcile import Books, CouldNotLook
from taximeter.settler.proof.seals import SQL as _SQL
from taximeter.settler.proof.seals import alone, prove_some, seal

CONNECTIONS: Final = 3
TIMEOUT_S: Final = 7_200.0
"""The first look reads everything there is."""
_SEAL_S: Final = 30.0
_SHOWN_MAX: Final = 20

_UPKEEP: Final = load_queries("upkeep")

Compared = Callable[[Books, int, bool], Awaitable[None]]
"""What is done with the live accounts that were compared, how many violations there are in all, and
whether the look before this one was wrong as well.
"""

log = structlog.get_logger("taximeter.settler")


class Checker:
    """Looks at the books on connections of its own: `stores` has them. One settler at a time: who
    finds another one at it leaves it alone.
    """

    def __init__(self, stores: Stores, settings: SettlerSettings, compared: Compared) -> None:
        self._stores = stores
        self._settings = settings
        self._compared = compared
        url = settings.archive_url
        self._archive: Place | None = None if url is None else open_place(url)

    async def look(self) -> Report | None:
        """Seal what can be, read some sealed days again, prove the rest, and write down what was
        found; None when another settler is at it, or nothing could be seen. Durable on return.
        Raises asyncpg and redis errors.
        """
        try:
            async with alone(self._stores.pool) as conn:
                return await self._look(conn)
        except CouldNotLook as error:
            log.info("check", not_now=str(error))
            return None

    async def _look(self, conn: Session) -> Report | None:
        settings = self._settings
        began = await conn.fetchval(_UPKEEP["read_clock"])
        started = time.monotonic()
        sealed = await seal(conn, budget_s=_SEAL_S)
        if sealed.seals:
            # An outside copy of this line shows a chain that was written anew.
            log.info("sealed", seals=sealed.seals, until=str(sealed.until), n=sealed.n,
                     head=sealed.link.hex())  # fmt: skip
        for day, said in sealed.refused.items():
            log.error("sealed", refused=str(day), reason=said[:_SHOWN_MAX])
        await prove_some(conn, settings.check_reread_s)
        try:
            report = await check(
                self._stores,
                CheckLimits(
                    holds_limit=settings.reconcile_holds_limit,
                    hold_grace_s=settings.hold_grace_s,
                    entry_age_max_s=settings.entry_age_max_s,
                    loss_alarm_s=settings.loss_alarm_s,
                ),
                self._archive,
            )
        except CouldNotLook as error:
            await conn.execute(_SQL["tried"], str(error)[:500])
            log.warning("check", could_not_look=str(error))
            return None
        seconds = time.monotonic() - started
        was_wrong = await _note(conn, report, began, seconds)
        wrong = [f"{one.name}: {text}" for one in report.invariants for text in one.violations]
        say = log.error if wrong else log.info
        say("check", seconds=round(seconds, 3), violations=len(wrong), first=wrong[:_SHOWN_MAX])
        if report.books is not None:
            await self._compared(report.books, len(wrong), was_wrong)
        return report


async def _note(conn: Session, report: Report, began: Any, seconds: float) -> bool:
    """Write down what was found; whether the look before it was wrong."""
    was_wrong = (await conn.fetch(_SQL["last_look"]))[0]["holds"] is False
    violations = sum(len(one.violations) for one in report.invariants)
    new = report["I16"].figures["rows_new"]
    async with conn.transaction():
        for one in report.invariants:
            await conn.execute(
                _SQL["note_result"],
                one.name,
                one.title,
                None if one.holds and one.unread else one.holds,
                *map(json.dumps, (one.figures, one.violations, one.fires, one.unread)),
                one.unjudged,
                began,
            )
        await conn.execute(_SQL["note_state"], began, seconds, report.proved, violations, new)
    return was_wrong
