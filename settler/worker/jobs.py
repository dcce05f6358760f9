"""What the settler does every second, minute and day. Plain asyncio: whoever calls these decides
when.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from functools import wraps
from typing import Any, Final

import structlog
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.wire.errors import StoreError
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.moves.closing import Closed, close_all, expire
from taximeter.settler.moves.moves import undo_left
from taximeter.settler.moves.relay import relay
from taximeter.settler.proof.reconcile import CouldNotLook, ReconcileLimits, Suspect, reconcile
from taximeter.settler.settling.exposure import note_exposure
from taximeter.settler.settling.settle import settle_shard
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards.admission import admit, recount
from taximeter.settler.shards.fill import Filler, Place, note_complete, read_places
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.worker.billing_periods import end_billing_periods
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import Loop
from taximeter.settler.worker.sweep import rotate, sweep
from taximeter.settler.worker.turns import Turns

_SQL: Final = load_queries("upkeep")
_MOVES: Final = load_queries("moves")
_EXPIRED_AT_ONCE: Final = 500
_REFRESHED_AT_ONCE: Final = 500
_LOGGED_SUSPECTS_MAX: Final = 20
_BATCHES_KEPT_MIN_S: Final = 86_400.0

GUARD_EVERY_S: Final = 0.5
ROUND_EVERY_S: Final = 1.0

log = structlog.get_logger("taximeter.settler")


Piece = Callable[["Settler"], Awaitable[None]]


def _one_at_a_time(*, upkeep: bool = False) -> Callable[[Piece], Piece]:
    """Make a method of Settler a piece of work that is not begun while it runs, and whose trouble
    is logged and never raised. It is cancelled after the time of a tick, or that of upkeep.
    """

    def mark(work: Piece) -> Piece:
        @wraps(work)
        async def once(self: Settler) -> None:
            settings = self._settings
            timeout_s = settings.upkeep_timeout_s if upkeep else settings.tick_timeout_s
            await self._turns.once(work.__name__, lambda: work(self), timeout_s=timeout_s)

        return once

    return mark


class Settler:
    """The work of one worker process on all shards.

    Every method can run in any number of processes at once and can be cut off anywhere. In one
    process a method that is still running is not started again: the call returns at once. Trouble
    with one shard is logged and does not keep the others waiting; it is tried again at the next
    tick. `clock` says what has expired and which month it is: that of Postgres, where nothing else
    is given. The one of this machine decides nothing.
    """

    def __init__(
        self,
        stores: Stores,
        settings: SettlerSettings,
        clock: Callable[[], datetime] | None = None,
        activity: LoopActivity | None = None,
    ) -> None:
        self._stores = stores
        self._settings = settings
        self._clock = clock
        self._shards = 0
        self._suspects: frozenset[Suspect] = frozenset()
        self._filler = Filler(stores, page_accounts=settings.relay_page_accounts)
        self._has_relayed = False
        self._looked_at: dict[int, float] = {}
        # A rebuild needs two connections a shard, and relay, reconcile and sweep must always get
        # one.
        most = settings.database_pool_max
        self._turns = Turns(
            activity or LoopActivity(),
            at_once={
                "guard": 1 if most < 8 else 2,
                "settle": max(1, (most - 2) // 2),
                "sweep": 1,
            },
            timeout_s=settings.tick_timeout_s,
        )

    def loops(self) -> list[Loop]:
        """What must not be late. Each is a loop of its own, so that a long settle does not hold up
        an entry, nor a shard another one's guardian.
        """
        bound_s = self._settings.tick_timeout_s + 5.0  # Of one piece of work, and a little more.
        return [
            Loop("guard", lambda: self.guard(GUARD_EVERY_S), GUARD_EVERY_S, bound_s),
            Loop("settle", lambda: self.settle(ROUND_EVERY_S), ROUND_EVERY_S, bound_s),
            Loop("relay", self.relay, ROUND_EVERY_S, bound_s),
            Loop("sweep", self._sweep_in_time, ROUND_EVERY_S, bound_s),
            Loop("moves", self.moves, ROUND_EVERY_S, bound_s),
            Loop("fill", self.fill, ROUND_EVERY_S, bound_s),
        ]

    async def end(self) -> None:
        """Let shards that are still worked on come to their end within the grace of a shutdown."""
        await self._turns.end(self._settings.shutdown_grace_s)

    async def start(self) -> int:
        """Make sure the shards exist; returns how many. Raises ShardCountMismatch, UnsafeServer."""
        self._shards = await ensure_shards(self._stores, self._settings.shards)
        promise = "Redis could not be asked yet"
        try:
            facts = await self._stores.check_server(*range(self._shards))
            promise = facts.promise(durability=self._stores.durability)
        except (RedisError, OSError) as error:
            log.warning("started", redis=type(error).__name__)
        log.info("started", shards=self._shards, promise=promise)
        return self._shards

    async def guard(self, patience_s: float | None = None) -> None:
        """Look at every shard that nobody here has looked at just now, and do what it needs."""
        # Read each time: the number changes under `taximeter reshard`.
        await self._turns.once("count", self._count, loop="guard")
        await self._turns.each_shard(
            "guard", self._shards, self._guard_in_turn, patience_s=patience_s
        )

    async def settle(self, patience_s: float | None = None) -> None:
        """Guard every shard, then settle and trim those that are whole."""
        await self._turns.once("count", self._count, loop="settle")
        await self._turns.each_shard("settle", self._shards, self._settle, patience_s=patience_s)

    async def sweep(self, patience_s: float | None = None) -> None:
        """End the holds that are due, and forget old outcomes, in the shards that the guardian has
        found whole.
        """
        await self._turns.each_shard("sweep", self._shards, self._sweep, patience_s=patience_s)

    async def _count(self) -> None:
        self._shards = await count_shards(self._stores.pool)

    async def _guard(self, shard: int) -> int | None:
        """The epoch that the shard is usable at, or None. What the guardian had to do is logged."""
        guarded = await guard(self._stores, shard, self._shards)
        self._looked_at[shard] = time.monotonic()
        if guarded.action != "nothing":
            say = log.info if guarded.action == "waiting" else log.warning
            say("guardian", **asdict(guarded))
        return guarded.epoch if guarded.usable else None

    async def _guard_in_turn(self, shard: int) -> bool:
        if time.monotonic() - self._looked_at.get(shard, float("-inf")) > GUARD_EVERY_S / 2:
            await self._guard(shard)
        return False

    async def _settle(self, shard: int) -> bool:
        """True when the time of a turn was over before the events were."""
        settings = self._settings
        if await self._guard(shard) is None:
            return False
        started = time.monotonic()
        settled = await settle_shard(
            self._stores,
            shard,
            batch_events=settings.settle_batch_events,
            attempts=settings.settle_attempts,
            budget_s=settings.settle_budget_s,
        )
        if settled.lost or settled.dead:
            log.warning("settled", seconds=round(time.monotonic() - started, 3), **asdict(settled))
        elif settled.settled:
            log.info("settled", seconds=round(time.monotonic() - started, 3), **asdict(settled))
        if settled.state != "busy":
            await admit(
                self._stores,
                shard,
                settled.epoch,
                settled.seq,
                settings.unsettled_events_max,
                settings.open_holds_max,
            )
        await trim(
            self._stores,
            shard,
            retention_s=settings.event_retention_s,
            retention_max=settings.event_retention_max,
        )
        # Last, so that what was settled just now does not count as open too.
        await note_exposure(self._stores, shard)
        return settled.state == "settled"

    async def _sweep(self, shard: int) -> bool:
        epoch = await self._guard(shard)
        if epoch is None:
            return False
        settings = self._settings
        swept = await sweep(
            self._stores,
            shard,
            epoch,
            limit=settings.sweep_limit,
            calls_max=settings.sweep_calls_per_tick,
        )
        if swept.uncharged_holds:
            log.warning("swept", shard=shard, **asdict(swept))
        elif swept.ended or swept.still_due:
            log.info("swept", shard=shard, **asdict(swept))
        await rotate(self._stores, shard, epoch, window_s=settings.outcome_window_s)
        return False

    async def _sweep_in_time(self) -> None:
        """Not before entries were relayed once: some of them end holds themselves."""
        if self._has_relayed:
            await self.sweep(ROUND_EVERY_S)

    async def _now(self) -> datetime:
        if self._clock is not None:
            return self._clock()
        now: datetime = await self._stores.pool.fetchval(_SQL["read_clock"])
        return now

    @_one_at_a_time()
    async def relay(self) -> None:
        """Bring every account that is behind up to date."""
        # The time of Redis first: what comes after it is for the next round to vouch for.
        places = await self._filled_places()
        done = await relay(
            self._stores,
            page_accounts=self._settings.relay_page_accounts,
            accounts_max=self._settings.relay_accounts_per_tick,
        )
        self._has_relayed = True
        if done.through:
            whole = [place for place in places if place.shard not in done.closed_shards]
            await note_complete(self._stores, whole)
        if done.refused or done.closed_shards:
            log.error(
                "relayed",
                applied=done.applied,
                loaded=done.loaded,
                refused=len(done.refused),
                first_refused=next(iter(done.refused.items()), None),
                closed_shards=done.closed_shards,
            )
        elif done.applied or done.loaded:
            log.info("relayed", applied=done.applied, loaded=done.loaded)

    async def _filled_places(self) -> list[Place]:
        try:
            return await read_places(self._stores, filled=True)
        except (RedisError, OSError):
            return []  # Whoever needs Redis says so.

    @_one_at_a_time()
    async def fill(self) -> None:
        """Bring accounts back into shards that were opened or approved anew, and have what they
        lost there sent again.
        """
        done = await self._filler.fill()
        if done.behind:
            log.warning("filled", **asdict(done))
        elif done.loaded or done.complete:
            log.info("filled", **asdict(done))

    @_one_at_a_time()
    async def moves(self) -> None:
        """Undo moves that were left half done, renew or close what has expired, and take back what
        has become free of allocations that are being closed.
        """
        undone = await undo_left(self._stores, grace_s=self._settings.move_grace_s)
        if undone:
            log.warning("moves", undone=undone)
        done = Closed()
        await expire(self._stores, await self._now(), _EXPIRED_AT_ONCE, done)
        await close_all(self._stores, done)
        if done != Closed():
            log.info("closed", **asdict(done))

    @_one_at_a_time(upkeep=True)
    async def refresh(self) -> None:
        """Give pools with a monthly refresh the months that they have not had, and link what the
        audit log has new.
        """
        await self._stores.pool.execute(_MOVES["seal_audit"])
        pool = self._stores.pool
        rows = await pool.fetch(_MOVES["refresh_pools"], await self._now(), _REFRESHED_AT_ONCE)
        if rows:
            log.info("refreshed", months=len(rows), millicredits=sum(row["amount"] for row in rows))

    @_one_at_a_time(upkeep=True)
    async def reconcile(self) -> None:
        """Compare all live accounts with the books; a difference that two looks in a row agree on
        is drift.
        """
        settings = self._settings
        try:
            await self._stores.check_server(*range(self._shards))
        except StoreError as error:
            # Somebody changed it since the start: what it has is still ours to look after.
            log.error("unsafe_server", reason=str(error))
        try:
            books = await reconcile(
                self._stores,
                ReconcileLimits(settings.reconcile_holds_limit, settings.entry_age_max_s),
            )
        except CouldNotLook as error:
            log.warning("reconcile", could_not_look=str(error))
            return
        for cut in books.shards:
            await self._recount(cut.shard, cut.epoch)
        suspects = frozenset(books.suspects)
        drift, self._suspects = suspects & self._suspects, suspects
        figures: dict[str, Any] = {
            "accounts": books.totals.accounts,
            "suspected": len(suspects),
            "drifting": len(drift),
        }
        if drift:
            shown = [str(one) for one in sorted(drift)[:_LOGGED_SUSPECTS_MAX]]
            log.error("reconcile", drift=shown, **figures)
        else:
            log.info("reconcile", **figures)

    async def _recount(self, shard: int, epoch: int) -> None:
        """Counts of open holds are no money, so what is wrong with them is mended at once."""
        try:
            wrong = await recount(self._stores, shard, epoch, self._settings.reconcile_holds_limit)
        except ResponseError as error:  # Closed, or reopened since: then it was counted.
            log.info("recount", shard=shard, could_not_count=str(error))
        else:
            if wrong > 0:
                log.warning("recount", shard=shard, accounts=wrong)

    @_one_at_a_time(upkeep=True)
    async def daily(self) -> None:
        """End billing periods, make the coming months, forget what is too old."""
        made = await self._stores.pool.fetchval(
            _SQL["ensure_partitions"], self._settings.partition_months_ahead
        )
        kept_s = max(_BATCHES_KEPT_MIN_S, self._settings.event_retention_s)
        pruned = await self._stores.pool.execute(_SQL["prune_batches"], kept_s)
        await self._stores.pool.execute(
            _SQL["prune_answers"], self._settings.idempotency_retention_s
        )
        periods = await end_billing_periods(self._stores.pool, (await self._now()).date())
        log.info("daily", periods_ended=periods, months_made=made, pruned=pruned)
