"""Reserves, commits and charges credits: Meter, the client that gateways embed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from types import TracebackType

from redis.exceptions import RedisError

from taximeter.meter.credit_line.admitted import Entry, receipt_of
from taximeter.meter.credit_line.desk import CreditDesk, CreditLines
from taximeter.meter.credit_line.dispatcher import FailOpenDispatcher
from taximeter.meter.hold import Hold
from taximeter.meter.lanes.dispatch import Dispatcher
from taximeter.meter.lanes.live_accounts import AccountReader
from taximeter.meter.lanes.outcomes import RequestReader
from taximeter.meter.lanes.pressure import Pressure
from taximeter.meter.lanes.shards import Shards
from taximeter.meter.lanes.tally import Tally
from taximeter.meter.places.places import Places
from taximeter.meter.places.routed import RoutedRedis
from taximeter.meter.server.connect import Vetted, connect_places, seeds_of
from taximeter.meter.server.durability import (
    ServerFacts,
    read_all_facts,
    read_facts,
    weakest_promise,
)
from taximeter.meter.server.trouble import unavailable, within
from taximeter.meter.settings import MeterSettings
from taximeter.meter.wire.balance import Balance, Elsewhere, Loader
from taximeter.meter.wire.errors import MeterError, OutcomeUnknown, StoreUnavailable
from taximeter.meter.wire.hold_record import Asker
from taximeter.meter.wire.ids import new_owner, new_request_id
from taximeter.meter.wire.keys import account_field, request_field
from taximeter.meter.wire.limits import (
    check_ttl,
    checked_account,
)
from taximeter.meter.wire.many import (
    Charge,
    PlainCharge,
    PlainReserve,
    Reserve,
    charge_operations,
    reserve_operations,
)
from taximeter.meter.wire.operations import OK_REPLY, Operation, ok_balance, operation_of
from taximeter.meter.wire.receipt import Receipt
from taximeter.meter.wire.usage import Usage


class Meter:
    """Reserves, commits and charges millicredits against live balances in Redis.

    Every call is safe to repeat with the same request id. What returned is in Redis (as durable as
    its AOF setting makes it) together with the event that settles it in Postgres. If this process
    dies in the middle of a call, the call took effect once or not at all; an open hold ends at its
    deadline.
    """

    def __init__(
        self,
        places: Places,
        redis: RoutedRedis,
        shards: int,
        settings: MeterSettings,
        loader: Loader | None,
        credit: CreditLines | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._settings = settings
        self._redis = redis
        self._places = places
        self._vetted = Vetted(settings)
        of_all = self._shards = Shards(places, self._vetted, shards, settings)
        self._accounts = AccountReader(redis, of_all, loader, settings, elsewhere)
        dispatcher = self._to_redis = Dispatcher(of_all, self._accounts, settings.overdraft_report)
        self._desk = None if credit is None else CreditDesk(credit, loader)
        self._fail_open = None if self._desk is None else FailOpenDispatcher(dispatcher, self._desk)
        self._dispatcher = self._fail_open or dispatcher
        self._requests = RequestReader(redis, places, of_all, settings.call_timeout_s)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        loader: Loader | None = None,
        settings: MeterSettings | None = None,
        key_prefix: str = "tm",
        credit: CreditLines | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> Meter:
        """Connect to Redis (`redis://`, `rediss://` or `unix://`) and learn how many shards it has.
        One server, a cluster by any of its nodes or the Sentinels of a primary: with several hosts,
        `redis://a:7000,b:7000`, the first that answers is asked which.

        `loader` reads an account from Postgres when Redis has none (after a loss of Redis, or
        before the first relay). `credit` lets some organisations go on, bounded, while Redis is
        away. `elsewhere` is asked about organisations that have no account here: with it, calls
        raise WrongCell for those of other cells. Raises StoreError or ShardFenced when Redis is
        away, not opened yet or not approved, UnsafeServer when it would evict balances,
        MissingPermission.
        """
        settings = settings or MeterSettings(key_prefix=key_prefix)
        seeds = seeds_of(url, settings)
        places, shards = await connect_places(seeds, settings)
        meter = cls(places, RoutedRedis(seeds, places), shards, settings, loader, credit, elsewhere)
        try:
            await meter._check_servers()
        except BaseException:
            await meter.aclose()
            raise
        return meter

    async def reserve(
        self,
        org_id: str,
        user_id: str,
        amount: int,
        *,
        request_id: str | None = None,
        ttl_s: float = 60.0,
        usage: Usage | None = None,
        opener: str = "",
    ) -> Hold:
        """Take `amount` out of available before the upstream call, for at most `ttl_s` seconds
        without a heartbeat.

        `usage` names what an expiry would charge for; `opener` is kept with the hold as who opened
        it (up to 32 letters and digits; empty: anyone). Raises InsufficientCredits,
        AccountNotFound,
        RequestReplayed (the id was reserved before: do not call upstream again), RequestConflict,
        InvalidRequest, Overloaded, StoreError.
        """
        request_id = new_request_id() if request_id is None else request_id
        operation = operation_of(
            "reserve", org_id, user_id, request_id, amount, check_ttl(ttl_s), usage, opener
        )
        if self._fail_open is not None:
            available, held = await self._fail_open.reserve(operation)
        else:
            # As Dispatcher.reserve, but without a coroutine more: this is the request path.
            dispatcher = self._to_redis
            try:
                raw = await dispatcher.submit(operation)
                if raw.startswith(OK_REPLY):
                    available, held = ok_balance(raw)
                else:
                    available, held = await dispatcher.reserved(operation, raw)
            except (asyncio.CancelledError, OutcomeUnknown):
                dispatcher.give_back(operation)
                raise
        return Hold(self, org_id, user_id, request_id, amount, available, held)

    async def commit(
        self,
        org_id: str,
        user_id: str,
        request_id: str,
        amount: int,
        *,
        usage: Usage | None = None,
        asker: Asker | None = None,
    ) -> Receipt:
        """Charge the actual `amount` and end the hold, also if it was under-reserved, expired or
        lost (then `late`).

        Goes on in the background when the caller is cancelled. `asker` confines it to what a key
        may do. Raises RequestConflict (released, or committed with another amount), NotAllowed,
        AccountNotFound, InvalidRequest, Overloaded, StoreError.
        """
        return await self._dispatcher.finish(
            operation_of("commit", org_id, user_id, request_id, amount, 0, usage, asker=asker)
        )

    async def release(
        self, org_id: str, user_id: str, request_id: str, *, asker: Asker | None = None
    ) -> Receipt:
        """Give the hold back without a charge. `asker` as for commit. Raises RequestConflict (it
        was committed), NotAllowed, UnknownHold, StoreError.
        """
        return await self._dispatcher.finish(
            operation_of("release", org_id, user_id, request_id, 0, 0, None, asker=asker)
        )

    async def charge(
        self,
        org_id: str,
        user_id: str,
        amount: int,
        *,
        request_id: str | None = None,
        usage: Usage | None = None,
        pays_ahead: bool = False,
    ) -> Receipt:
        """Reserve and commit in one step, for a cost already known. A repeat answers `replayed`.
        Raises as reserve.

        `pays_ahead`: work is let through by this. What this very call has charged is no repeat
        then, though the reply was lost on the way and it had to ask again.
        """
        request_id = new_request_id() if request_id is None else request_id
        operation = operation_of("charge", org_id, user_id, request_id, amount, 0, usage)
        if pays_ahead:
            operation = operation._replace(owner=new_owner())
        if self._fail_open is not None:
            return await self._fail_open.finish(operation)
        # As Dispatcher.finish, in the same way.
        dispatcher = self._to_redis
        try:
            raw = await dispatcher.submit(operation)
            if raw.startswith(OK_REPLY):
                return dispatcher.ok(operation, raw)
            return await dispatcher.ended(operation, raw)
        except asyncio.CancelledError:
            dispatcher.go_on(operation)
            raise

    async def charge_many(
        self, charges: Iterable[Charge | PlainCharge]
    ) -> list[Receipt | MeterError]:
        """Charge up to MANY_MAX costs that are known already, at less than their charges alone
        would take, and say what became of each, in their order: its Receipt, or the error that
        `charge` would have raised.

        Each is a `Charge`, or a tuple of its five fields; amounts are millicredits. Everything is
        as for as many calls of `charge` at the same moment: what has a Receipt is in Redis, with
        its event; an OutcomeUnknown was done once or not at all; those of one account are done in
        their order; a repeat of a request id answers `replayed`, also within one call. One that
        fails stops no other, and when this process dies any part of them may be done. When the
        caller is cancelled, they go on in the background.

        Raises InvalidRequest, and nothing was done, when `charges` has too many or one that is no
        Charge; a value outside of its limit is the outcome of its own charge alone.
        """
        return await self._dispatcher.run(charge_operations(charges))

    async def reserve_many(
        self, reserves: Iterable[Reserve | PlainReserve]
    ) -> list[Hold | MeterError]:
        """Open up to MANY_MAX holds, at less than their reserves alone would take, and say what
        became of each, in their order: its Hold, or the error that `reserve` would have raised.

        Each is a `Reserve`, or a tuple of its seven fields; amounts are millicredits, times
        seconds. Everything is as for as many calls of `reserve` at the same moment: each is
        admitted by what those before it have left; what may be held after an OutcomeUnknown, or
        when the caller is cancelled, is given back by itself. One that fails stops no other. Every
        Hold is the caller's to commit or release; one that is forgotten ends at its deadline.

        Raises InvalidRequest, and nothing was done, when `reserves` has too many or one that is no
        Reserve; a value outside of its limit is the outcome of its own reserve alone.
        """
        operations = reserve_operations(reserves)
        held: list[Hold | MeterError] = []
        for operation, told in zip(operations, await self._dispatcher.run(operations), strict=True):
            if isinstance(told, MeterError) or isinstance(operation, MeterError):
                held.append(told)  # type: ignore[arg-type]  # An error stays one.
            else:
                org_id, _, user_id = operation.account.partition("/")
                request_id, _, amount, _, available, of_all, *_ = told
                held.append(Hold(self, org_id, user_id, request_id, amount, available, of_all))
        return held

    async def run_many(
        self, operations: Sequence[Operation | MeterError]
    ) -> list[Receipt | MeterError]:
        """The same for operations of any kind that were checked already, errors among them being
        handed back: what the sidecar makes of a batch.
        """
        return await self._dispatcher.run(operations)

    async def touch(
        self,
        org_id: str,
        user_id: str,
        request_id: str,
        progress: int = 0,
        *,
        ttl_s: float = 60.0,
        usage: Usage | None = None,
        asker: Asker | None = None,
    ) -> Receipt:
        """Heartbeat of a hold: moves its deadline to `ttl_s` from now and records what was used so
        far.

        An expiry charges the largest progress. It is not carried over a restart of Redis: one that
        was on its way ends as OutcomeUnknown or StoreUnavailable, and the next one counts. `asker`
        as for commit. Raises RequestConflict (it has ended), NotAllowed, UnknownHold, StoreError.
        """
        operation = operation_of(
            *("touch", org_id, user_id, request_id, progress, check_ttl(ttl_s), usage),
            asker=asker,
        )
        return await self._dispatcher.ask(operation)

    async def balance(self, org_id: str, user_id: str) -> Balance:
        """The live balance. Raises AccountNotFound, StoreError."""
        checked_account(org_id, user_id)
        return await self._accounts.balance(org_id, user_id)

    async def request(
        self, org_id: str, request_id: str, *, user_id: str | None = None
    ) -> Receipt | None:
        """What became of a request id, or None when it is neither open nor remembered, or not of
        `user_id` where that is given. Raises InvalidRequest, StoreError.
        """
        entry = self._on_credit(org_id, request_id)
        if entry is not None:
            mine = user_id is None or entry.operation.account == account_field(org_id, user_id)
            return receipt_of(entry) if mine else None
        return await self._requests.find(org_id, request_id, user_id)

    async def usage_of(self, org_id: str, request_id: str) -> Usage | None:
        """What an open hold was reserved for, or None when it does not say or is not open. Raises
        InvalidRequest, StoreError.
        """
        entry = self._on_credit(org_id, request_id)
        if entry is not None:
            return Usage.of_payload(entry.operation.payload)
        return Usage.of_payload(await self._requests.payload(org_id, request_id))

    def _on_credit(self, org_id: str, request_id: str) -> Entry | None:
        return self._desk.entry(request_field(org_id, request_id)) if self._desk else None

    async def ready(self) -> None:
        """Return when some shard is open: requests of the others are told, and no process could do
        more for them. Raises ShardFenced, StoreError.
        """
        await self._requests.check_open()

    async def missing(self) -> tuple[str, ...]:
        """Which shards are closed or away, and which disks or replicas do not confirm what is
        written now, in words; empty when all shards are open and all that are waited for confirm.
        Raises StoreUnavailable.
        """
        closed, waits = await self._requests.closed(), self._settings.waits
        unconfirmed = [] if waits is None else await self._requests.unconfirmed(waits)
        return (*closed, *unconfirmed)

    def pressure(self) -> list[tuple[int, int, Pressure]]:
        """For each shard: its number, how many operations wait in this process, and how it went
        since this process began (or the number of shards changed).
        """
        clients = self._shards.clients
        return [(shard, one.waiting, one.pressure) for shard, one in enumerate(clients)]

    @property
    def tally(self) -> Tally:
        """What Redis has answered this process since it began: operations, amounts and times."""
        return self._shards.tally

    @property
    def connections(self) -> dict[str, int]:
        """Connections to Redis: those of lanes, over which operations go, and of look-ups, `used`
        and `idle`.
        """
        used, idle = self._redis.connections
        return {"lanes": self._shards.connections, "used": used, "idle": idle}

    @property
    def on_credit(self) -> tuple[int, int, int, int] | None:
        """Requests that were admitted on credit lines and are open, those that wait to be charged,
        the millicredits of both, and of all lines; None without credit lines.
        """
        return None if self._desk is None else self._desk.figures

    @property
    def overdrafts(self) -> int:
        """How many operations of this process have left an account further below zero than
        `overdraft_report`.
        """
        return self._to_redis.overdrafts

    async def _check_servers(self) -> None:
        """Look at every server that has a shard. One that cannot be reached is looked at before it
        is used; but some server has to be there.
        """
        checked: set[int] = set()
        trouble: StoreUnavailable | RedisError | None = None
        is_one_fit = False
        for keys in self._shards.keys:
            try:
                place = self._places.of(keys.meta)
                if id(place) not in checked:
                    checked.add(id(place))
                    await self._vetted.check(place, keys.meta)
                    is_one_fit = True
            except (StoreUnavailable, RedisError) as error:
                trouble = trouble or error
        if trouble is not None and not is_one_fit:
            raise trouble if isinstance(trouble, StoreUnavailable) else unavailable(trouble)

    async def server_facts(self) -> ServerFacts:
        """What the server does with what it answers. Raises StoreUnavailable."""
        async with within(self._settings.call_timeout_s):
            return await read_facts(self._places.of(self._shards.keys[0].meta))

    async def promise(self) -> str:
        """What holds for what this meter has answered, in one sentence: of several servers, what
        the weakest of them promises, by its name. Raises StoreUnavailable when none answers.
        """
        settings = self._settings
        metas = [keys.meta for keys in self._shards.keys]
        facts = await read_all_facts(self._places, metas, settings.call_timeout_s)
        return weakest_promise(facts, settings.waits, settings.durability)

    async def aclose(self, timeout_s: float | None = None) -> None:
        """Finish what is queued or goes on in the background, then disconnect.

        Takes `timeout_s` (None: close_timeout_s) altogether. What is not answered by then fails
        for whoever waits for it: with OutcomeUnknown when it may have been done.
        """
        of_setting = self._settings.close_timeout_s
        await self._dispatcher.aclose(of_setting if timeout_s is None else timeout_s)
        await self._redis.aclose()

    async def __aenter__(self) -> Meter:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()
