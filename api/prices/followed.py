"""Makes prices and holds as the settings say, and follows what changes: the operator's price file
and the lists that were taken over are charged by within seconds, without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import asyncpg

from taximeter.api.prices.editions import Editions
from taximeter.api.settings.prices import PriceSettings
from taximeter.meter.held_estimates import EstimatedHolds, HoldPolicy
from taximeter.meter.pricing import PriceFileError, Pricer, TokenPrice
from taximeter.meter.wire.credits import MILLICREDITS_PER_CREDIT

logger = logging.getLogger("taximeter.prices")

_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
READ_S = 2.0
"""What a start waits for the lists. They are read again until they are known; no price is named
before.
"""


def make_pricer(settings: PriceSettings, *, waits_for_editions: bool = False) -> Pricer:
    """The price lists, multiplied as the settings say. Raises PriceFileError. With
    `waits_for_editions` it must be followed (`following`) before it names a price.
    """
    return Pricer(
        waits_for_editions=waits_for_editions,
        credits_per_dollar=settings.credits_per_dollar,
        markup=settings.markup,
        markup_by_plan=settings.markup_by_plan,
        markup_by_power_level=settings.markup_by_power_level,
        price_file=settings.price_file,
        unknown_model=settings.unknown_model,
        default_price=TokenPrice(
            settings.default_input_usd_per_million, settings.default_output_usd_per_million
        ),
        provider_id=settings.pricing_provider,
    )


def make_holds(settings: PriceSettings) -> EstimatedHolds:
    """How much of an estimate is held."""
    cap = settings.estimate_cap_credits
    return EstimatedHolds(
        HoldPolicy(
            cap=None if cap is None else int(cap * MILLICREDITS_PER_CREDIT),
            share=settings.estimate_share,
            floor=int(settings.estimate_floor_credits * MILLICREDITS_PER_CREDIT),
        )
    )


class AgeAlarm(NamedTuple):
    """What is wrong with the age of a price list: in a word (`old`, `age_unknown`), and in full."""

    word: str
    text: str


def age_alarm(
    version: str, dated: date | None, days_max: int, today: date | None = None
) -> AgeAlarm | None:
    """What is wrong with the age of a price list, or None. A day that nobody knows, and one that
    has not come yet, are as bad as an old one: nothing can be said of the age.
    """
    today = today or datetime.now(UTC).date()
    if dated is None:
        return AgeAlarm("age_unknown", f"nobody says of which day the prices are ({version})")
    if dated > today + timedelta(days=1):  # Somebody's day begins before that of UTC.
        return AgeAlarm(
            "age_unknown", f"the prices are dated {dated}, which has not come yet ({version})"
        )
    days = (today - dated).days
    if days > days_max:
        text = f"the prices are {days} days old, of {dated} ({version}); {days_max} are allowed"
        return AgeAlarm("old", text)
    return None


class PriceAge:
    """How old the prices in force are, as an alarm that is in the log once a day.

    unreadable: whether a list that was taken over cannot be used here, so that older prices stay.
    """

    unreadable = False

    def __init__(self, pricer: Pricer, days_max: int) -> None:
        self._pricer = pricer
        self._days_max = days_max
        self._said_on: date | None = None

    def word(self) -> str | None:
        """What is wrong, in a word, or None: `not_known` before it is known which list is in
        force, `unreadable` while one of them cannot be used here.
        """
        if not self._pricer.knows_editions:
            return "not_known"
        if self.unreadable:
            return "unreadable"
        found = age_alarm(self._pricer.list_version, self._pricer.list_dated, self._days_max)
        return None if found is None else found.word

    def log(self, today: date | None = None) -> None:
        """Say it, unless it was said today."""
        today = today or datetime.now(UTC).date()
        if self._said_on == today or not self._pricer.knows_editions:
            return
        found = age_alarm(self._pricer.list_version, self._pricer.list_dated, self._days_max, today)
        if found is not None:
            self._said_on = today
            logger.error("prices: %s; take a newer list over: taximeter prices refresh", found.text)


@asynccontextmanager
async def following(
    pricer: Pricer | None,
    every_s: float,
    editions: Editions | None = None,
    age: PriceAge | None = None,
) -> AsyncIterator[None]:
    """Look at the operator's file and at the editions this often while the block runs, first of all
    before it. What cannot be used is logged, and the prices stay as they were. Raises
    PriceFileError where the first look finds a file of editions that cannot be used.
    """
    if pricer is None:
        yield
        return
    follower = _Follower(pricer, editions, age)
    await follower.start()
    task = asyncio.create_task(follower.run(every_s))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class _Follower:
    def __init__(self, pricer: Pricer, editions: Editions | None, age: PriceAge | None) -> None:
        self._pricer = pricer
        self._editions = editions if editions is not None and editions.are_kept else None
        self._age = age
        self._trouble = ""
        self._version = ""

    async def start(self) -> None:
        if self._editions is not None:
            try:
                async with asyncio.timeout(READ_S):
                    self._pricer.follow(await self._editions.read())
            except PriceFileError as error:
                if self._editions.are_in_a_file:
                    raise  # Whoever starts it can mend that; what Postgres has, others read too.
                self._cannot_read(error)
            except _AWAY as error:
                self._cannot_read(error)
        self._say()

    async def run(self, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            await self._look_at_file()
            await self._look_at_editions()
            self._say()

    async def _look_at_file(self) -> None:
        try:
            # In a thread, since a large file takes some tenths of a second to read.
            if await asyncio.to_thread(self._pricer.reload):
                logger.warning("the price file was read anew: %s", self._pricer.file_version)
        except PriceFileError as error:
            logger.error("the price file is not used, prices stay as they were: %s", error)
        except Exception:
            logger.exception("the price file could not be looked at")

    async def _look_at_editions(self) -> None:
        if self._editions is None:
            return
        try:
            self._pricer.follow(await self._editions.read())
        except (PriceFileError, *_AWAY) as error:
            self._cannot_read(error)
        except Exception:
            logger.exception("the price lists could not be looked at")
            self._note(unreadable=True)
        else:
            self._trouble = ""
            self._note(unreadable=False)

    def _note(self, *, unreadable: bool) -> None:
        if self._age is not None:
            self._age.unreadable = unreadable

    def _cannot_read(self, error: Exception) -> None:
        if isinstance(error, PriceFileError):  # Else Postgres is away, which is told elsewhere.
            self._note(unreadable=True)
        found = str(error) or type(error).__name__
        if found != self._trouble:
            self._trouble = found
            logger.error("the price lists cannot be read, prices stay as they were: %s", found)

    def _say(self) -> None:
        """Which list is in force, when that has changed; and its age."""
        version = self._pricer.list_version
        if version != self._version:
            if self._version:
                logger.warning("another price list is in force: %s", version)
            self._version = version
        if self._age is not None:
            self._age.log()
