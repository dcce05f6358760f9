"""Does what a settler does every second, minute and day. Plain asyncio: whoever calls these decides
when.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from functools import wraps
from typing import Any, Final

import structlog
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.places.places import ClusterPlaces
from taximeter.meter.server.durability import weakest_promise
from taximeter.meter.wire.errors import StoreError
from taximeter.settler.archive.by_itself import TIMEOUT_S as ARCHIVE_TIMEOUT_S
from taximeter.settler.archive.by_itself import archive_oldest
from taximeter.settler.archive.months import NotArchived
from taximeter.settler.archive.places import open_place
from taximeter.settler.books.installation import claim_installation, may_speak
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.settings import SettlerSettings
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import count_shards
from taximeter.settler.cells.move import take_up_left
from taximeter.settler.exports.by_itself import TIMEOUT_S as EXPORT_TIMEOUT_S
from taximeter.settler.exports.by_itself import export_days
from taximeter.settler.exports.days import Written
from taximeter.settler.moves.closing import Closed, Turn, close_all, expire, go_on_ending
from taximeter.settler.moves.moves import undo_left
from taximeter.settler.moves.relay import relay
from taximeter.settler.notices.catalogue import Books, Lag
from taximeter.settler.notices.facts import note_books, note_ends, note_lags, prune_notices
from taximeter.settler.proof import reconcile as live
from taximeter.settler.proof.reconcile import CouldNotLook, ReconcileLimits, Suspect, reconcile
from taximeter.settler.settling.exposure import note_exposure
from taximeter.settler.settling.settle import Booked, settle_shard
from taximeter.settler.settling.trim import trim
from taximeter.settler.shards.admission import admit, recount
from taximeter.settler.shards.fill import Asked, Filler, ask_places, note_complete
from taximeter.settler.shards.guardian import ensure_shards, guard
from taximeter.settler.status.lag import shard_statuses
from taximeter.settler.status.nodes import look_at_nodes
from taximeter.settler.worker.billing_periods import end_billing_periods
from taximeter.settler.worker.checking import TIMEOUT_S as CHECK_TIMEOUT_S
from taximeter.settler.worker.checking import Checker
from taximeter.settler.worker.loop_activity import LoopActivity
from taximeter.settler.worker.loops import Loop
from taximeter.settler.worker.request_ids import Remembering, forget_request_ids
from taximeter.settler.worker.sweep import rotate, sweep
from taximeter.settler.worker.turns import Turns
from taximeter.settler.worker.work_metrics import WorkMetrics

_SQL: Final = load_queries("upkeep")
_MOVES: Final = load_queries("moves")
_SEALS: Final = load_queries("seals")
_EXPIRED_AT_ONCE: Final = 500
_REFRESHED_AT_ONCE: Final = 500
_LOGGED_SUSPECTS_MAX: Final = 20
_LOOK_S: Final = 0.2
_CLOSING_S: Final = 10.0
_BATCHES_KEPT_MIN_S: Final = 86_400.0

_LAG_EVERY_S: Final = 10.0
GUARD_EVERY_S: Final = 0.5
ROUND_EVERY_S: Final = 1.0
ARCHIVE_EVERY_S: Final = 600.0
EXPORT_EVERY_S: Final = 600.0
_CHECKS_MISSED: Final = 3
"""So many looks at the books may be due before live accounts are compared without one."""

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
            started = time.monotonic()
            await self._turns.once(work.__name__, lambda: work(self), timeout_s=timeout_s)
            if upkeep:
                self._metrics.job_ran(work.__name__, time.monotonic() - started)

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
        metrics: WorkMetrics | None = None,
        booked: Booked | None = None,
        check_stores: Stores | None = None,
    ) -> None:
        self._stores = stores
        self._booked = booked
        self._checker = (
            None if check_stores is None else Checker(check_stores, settings, self._checked)
        )
        self._metrics = metrics or WorkMetrics()
        self._settings = settings
        self._clock = clock
        self._shards = 0
        self._suspects: frozenset[Suspect] = frozenset()
        self._said: frozenset[str] = frozenset()
        self._filler = Filler(stores, page_accounts=settings.relay_page_accounts)
        self._has_relayed = False
        self._closing = Turn()
        self._looked_at: dict[int, float] = {}
        self.has_found_redis = False
        """Whether some shard was found open here, or has been opened."""
        # A rebuild needs two connections a shard, and relay, reconcile and sweep must always get
        # one. A look at a shard needs none, so that each server has room of its own for that.
        most = settings.database_pool_max
        at_once = {"guard": 1 if most < 8 else 2, "settle": max(1, (most - 2) // 2), "sweep": 1}
        self._guarding = asyncio.Semaphore(at_once["guard"])
        self._settling = asyncio.Semaphore(at_once["settle"])
        self._turns = Turns(
            activity or LoopActivity(),
            at_once=at_once,
            timeout_s=settings.tick_timeout_s,
            server_of=stores.server_name,
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
            Loop("moves", self._moves_in_time, ROUND_EVERY_S, bound_s),
            Loop("fill", self.fill, ROUND_EVERY_S, bound_s),
            *(
                [Loop("archive", self._archive_in_time, ARCHIVE_EVERY_S, bound_s)]
                if self._settings.archive_keep_months is not None
                else []
            ),
            *(
                [Loop("export", self._export_in_time, EXPORT_EVERY_S, bound_s)]
                if self._settings.export_url is not None
                else []
            ),
            *(
                [Loop("check", self._check_in_time, self._settings.check_every_s, bound_s)]
                if self._checker is not None
                else []
            ),
            Loop("lag", self.watch_lag, _LAG_EVERY_S, bound_s),
        ]

    async def _check_in_time(self) -> None:
        """The first look, and what waits for a store, takes longer than a round."""
        self._turns.aside("check", self.check)

    async def check(self) -> None:
        """Seal and prove the books, on connections of its own, where no other settler does."""
        if self._checker is not None:
            await self._turns.once("check", self._look_at_books, timeout_s=CHECK_TIMEOUT_S)

    async def _look_at_books(self) -> None:
        assert self._checker is not None, "asked before"
        await self._checker.look()

    async def _checked(self, books: live.Books, violations: int, was_wrong: bool) -> None:
        """A look at the books has compared the live accounts. What two looks in a row find wrong
        is told.
        """
        await self._compared(books)
        if books.away and not violations:
            return  # Books of which a part was not seen are not said to be right.
        looked = Books(accounts=books.totals.accounts, differences=violations)
        await note_books(self._stores.pool, looked, confirmed=violations if was_wrong else 0)

    async def _archive_in_time(self) -> None:
        """A month takes minutes, or hours."""
        self._turns.aside("archive", self.archive)

    async def archive(self) -> None:
        """Archive the oldest month that is due, if any, where this settler is to do that."""
        await self._turns.once("archive", self._archive, timeout_s=ARCHIVE_TIMEOUT_S)

    async def _archive(self) -> None:
        settings = self._settings
        if settings.archive_keep_months is None:
            return
        assert settings.archive_url is not None, "checked with the settings"
        assert settings.archive_database_url is not None, "checked with the settings"
        if not self.has_found_redis:
            await self.guard()
        if not self.has_found_redis or not await may_speak(self._stores.pool):
            log.info("archive", not_now="this may be a copy: see `taximeter restored`")
            return
        try:
            part = await archive_oldest(
                settings.archive_database_url,
                self._stores.redis,
                settings.key_prefix,
                open_place(settings.archive_url),
                keep=settings.archive_keep_months,
                hours=settings.archive_hours,
            )
        except NotArchived as error:
            log.info("archive", not_now=str(error))
            return
        if part is not None:
            log.info("archive", month=str(part))

    async def _export_in_time(self) -> None:
        """A day with millions of charges takes minutes."""
        self._turns.aside("export", self.export)

    async def export(self) -> None:
        """Write exports of days that are due, where this settler is to do that."""
        await self._turns.once("export", self._export, timeout_s=EXPORT_TIMEOUT_S)

    async def _export(self) -> None:
        settings = self._settings
        if settings.export_url is None:
            return
        if not self.has_found_redis:
            await self.guard()
        if not self.has_found_redis:
            log.info("export", not_now="Redis has not been looked at yet")
            return
        look = await export_days(
            settings, self._stores.redis, open_place(settings.export_url), self._exported
        )
        self._metrics.exported_to(look.last_day)
        if look.not_yet is not None:
            log.info("export", not_now=look.not_yet)

    def _exported(self, done: Written) -> None:
        self._metrics.exported(done.rows)
        log.info("export", day=str(done.day), revision=done.revision, rows=done.rows)

    async def end(self) -> None:
        """Let shards that are still worked on come to their end within the grace of a shutdown."""
        await self._turns.end(self._settings.shutdown_grace_s)

    async def start(self) -> int:
        """Make sure that this is the right database, and that the shards exist; returns how many.
        Raises AnotherInstallation, ShardCountMismatch, UnsafeServer.
        """
        await claim_installation(self._stores)
        self._shards = await ensure_shards(self._stores, self._settings.shards)
        promise = "Redis could not be asked yet"
        try:
            facts = await self._stores.check_server(*range(self._shards))
            promise = weakest_promise(facts, durability=self._stores.durability)
        except (RedisError, OSError) as error:
            log.warning("started", redis=type(error).__name__)
        log.info("started", shards=self._shards, promise=promise)
        return self._shards

    async def guard(self, patience_s: float | None = None) -> None:
        """Look at every shard that nobody here has looked at just now, and do what it needs."""
        # Read each time: the number changes under `taximeter reshard`.
        await self._turns.once("count", self._count, loop="guard")
        places = getattr(self._stores.redis, "known", None)
        if isinstance(places, ClusterPlaces):
            await places.look(_LOOK_S)
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
        self._metrics.shards(self._shards)

    async def _guard(self, shard: int) -> int | None:
        """The epoch that the shard is usable at, or None. What the guardian had to do is logged."""
        try:
            guarded = await guard(self._stores, shard, self._shards, self._guarding)
        except Exception:
            self._metrics.could_not_guard(shard)
            raise
        self._looked_at[shard] = time.monotonic()
        self._metrics.guarded(guarded)
        self.has_found_redis = self.has_found_redis or guarded.usable
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
        if await self._guard(shard) is None:
            return False
        async with self._settling:
            return await self._settle_whole(shard)

    async def _settle_whole(self, shard: int) -> bool:
        settings = self._settings
        started = time.monotonic()
        settled = await settle_shard(
            self._stores,
            shard,
            batch_events=settings.settle_batch_events,
            attempts=settings.settle_attempts,
            budget_s=settings.settle_budget_s,
            booked=self._booked,
        )
        seconds = time.monotonic() - started
        self._metrics.settled(settled, seconds)
        if settled.lost or settled.dead:
            log.warning("settled", seconds=round(seconds, 3), **asdict(settled))
        elif settled.settled:
            log.info("settled", seconds=round(seconds, 3), **asdict(settled))
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
        self._metrics.swept(swept)
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
        asked = await self._ask_places()
        done = await relay(
            self._stores,
            page_accounts=self._settings.relay_page_accounts,
            accounts_max=self._settings.relay_accounts_per_tick,
            away=asked.away,
        )
        self._has_relayed = True
        self._metrics.relayed(done)
        if done.through:
            whole = [
                place
                for place in asked.places
                if place.filled and place.shard not in done.closed_shards
            ]
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

    async def _ask_places(self) -> Asked:
        try:
            return await ask_places(self._stores)
        except (RedisError, OSError):
            return Asked()  # Whoever needs Redis says so.

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
        """Undo moves of credits that were left half done, renew or close what has expired, and take
        back what has become free of allocations that are being closed.
        """
        undone = await undo_left(self._stores, grace_s=self._settings.move_grace_s)
        if undone:
            log.warning("moves", undone=undone)
        done = Closed()
        await expire(self._stores, await self._now(), _EXPIRED_AT_ONCE, done)
        ending = await go_on_ending(self._stores)
        await close_all(self._stores, done, self._closing, budget_s=_CLOSING_S)
        if ending:
            log.info("ending", organizations=ending)
        if done != Closed():
            log.info("closed", **asdict(done))

    @_one_at_a_time(upkeep=True)
    async def cell_moves(self) -> None:
        """Go on with moves to other cells that were left, or undo them."""
        taken_up = await take_up_left(self._stores)
        if any(taken_up.values()):
            log.warning("cell_moves", **taken_up)

    async def _moves_in_time(self) -> None:
        """A large organisation that comes back takes longer than a round."""
        self._turns.aside("cell_moves", self.cell_moves)
        await self.moves()

    @_one_at_a_time(upkeep=True)
    async def refresh(self) -> None:
        """Give pools with a monthly refresh the months that they have not had, link what the audit
        log has new, and note what ends soon.
        """
        await self._stores.pool.execute(_MOVES["seal_audit"])
        pool = self._stores.pool
        rows = await pool.fetch(_MOVES["refresh_pools"], await self._now(), _REFRESHED_AT_ONCE)
        if noted := await note_ends(pool, await self._now()):
            log.info("noted", end_soon=noted)
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
        await self._look_at_nodes()
        if self._checker is not None:
            last = (await self._stores.pool.fetch(_SEALS["last_look"]))[0]
            if last["age_s"] is not None and (
                last["age_s"] < settings.check_every_s * _CHECKS_MISSED
            ):
                return  # The look at the books has compared them.
        try:
            books = await reconcile(
                self._stores,
                ReconcileLimits(settings.reconcile_holds_limit, settings.entry_age_max_s),
            )
        except CouldNotLook as error:
            log.warning("reconcile", could_not_look=str(error))
            return
        drifting = await self._compared(books)
        if drifting or not books.away:
            # Books of which a part was not seen are not said to be right.
            looked = Books(accounts=books.totals.accounts, differences=len(books.suspects))
            if drifting or not await self._is_known_wrong():
                await note_books(self._stores.pool, looked, confirmed=drifting)

    async def _is_known_wrong(self) -> bool:
        """Whether the last look at the books, of which live accounts are a part, found them so."""
        last = (await self._stores.pool.fetch(_SEALS["last_look"]))[0]
        return last["holds"] is False

    async def _compared(self, books: live.Books) -> int:
        """Say what live accounts and books that were compared have come to; how many differences
        two looks agree on.
        """
        for cut in books.shards:
            if cut.away is None:
                await self._recount(cut.shard, cut.epoch)
        suspects = frozenset(books.suspects)
        drift, self._suspects = suspects & self._suspects, suspects
        away = books.away
        if drift or not away:  # Books of which a part was not seen are not said to be right.
            self._metrics.reconciled(books.totals, len(suspects), len(drift))
        if away:
            log.warning("reconcile", not_looked_at=away, reason="the server does not answer")
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
        return len(drift)

    @_one_at_a_time()
    async def watch_lag(self) -> None:
        """Note when charges wait for Postgres too long, and when they do no longer."""
        try:
            found = await shard_statuses(self._stores)
        except (RedisError, OSError):
            return  # Whoever needs Redis says so.
        lags = [Lag(shard=one.shard, unsettled_events=one.unsettled_events,
                    unsettled_age_s=one.unsettled_age_ms / 1000)
                for one in found if one.away is None]  # fmt: skip
        await note_lags(self._stores.pool, lags, self._settings.settlement_alarm_s)

    async def _look_at_nodes(self) -> None:
        """Say what is wrong with nodes of a cluster, each thing once until it is mended."""
        try:
            found = await look_at_nodes(self._stores, self._shards)
        except (RedisError, OSError):
            return  # Whoever needs Redis says so.
        for one in found:
            if one not in self._said:
                log.warning("cluster", warns=one)
        self._said = frozenset(found)

    async def _recount(self, shard: int, epoch: int) -> None:
        """Counts of open holds are no money, so what is wrong with them is mended at once."""
        try:
            wrong = await recount(self._stores, shard, epoch, self._settings.reconcile_holds_limit)
        except ResponseError as error:  # Closed, or reopened since: then it was counted.
            log.info("recount", shard=shard, could_not_count=str(error))
        else:
            if wrong > 0:
                self._metrics.recounted(wrong)
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
        await prune_notices(self._stores.pool, self._settings.notice_retention_s)
        periods = await end_billing_periods(self._stores.pool, (await self._now()).date())
        log.info("daily", periods_ended=periods, months_made=made, pruned=pruned)
        if self._settings.request_id_retention_s:
            ids = await forget_request_ids(
                self._stores,
                self._settings.request_id_retention_s,
                timeout_s=self._settings.upkeep_timeout_s,
            )
            if ids.unsettled or ids.in_use:
                log.warning("request_ids", **asdict(ids))
            elif ids != Remembering():
                log.info("request_ids", **asdict(ids))
