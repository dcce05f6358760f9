"""What a caller is told after a lost reply is so, whatever happens to the server in between.

Every operation, its reply lost or its request held up on the way, times everything that may come
before the client's own repeat. The judge is the shard: what was told as refused has no event and no
hold, then or later; a reserve of which nobody was told leaves no hold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from redis.asyncio import Redis
from support.proxy import Proxy
from support.servers import ValkeyFactory
from support.shard import FULL, ScriptedShard, op
from support.waiting import eventually

from taximeter.api.embedded.valkey import EmbeddedValkey
from taximeter.meter import (
    Hold,
    InsufficientCredits,
    LoadedAccount,
    Meter,
    MeterError,
    MeterSettings,
    OutcomeUnknown,
    RequestReplayed,
    StoreError,
)
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.scripts import load_script

pytestmark = pytest.mark.slow

KINDS = ("reserve", "commit", "release", "charge", "touch")
AMOUNT = 300


class Books:
    """A server of its own with one shard, and a meter that reaches it through a proxy."""

    def __init__(self, server: EmbeddedValkey, proxy: Proxy) -> None:
        self.server = server
        self.proxy = proxy
        self.redis = Redis.from_url(server.url)
        self.shard = ScriptedShard(self.redis, ShardKeys("tm", 0), epoch=0)
        self.loaded: LoadedAccount | Exception | None = None
        self.booked: list[list[str]] = []
        """Events that were lost with the server: Postgres had settled them before."""
        self.meter: Meter
        self.request_id = ""

    async def loader(self, org_id: str, user_id: str) -> LoadedAccount | None:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded

    async def begin(self, *, account: bool = True) -> None:
        """Open the shard anew, at the next epoch."""
        self.booked += [event for event in await self.shard.events() if event not in self.booked]
        await load_script("fence").call(self.redis, [self.shard.keys.meta], ["rebuilt"])
        await self.shard.open(epoch=self.shard.epoch + 1)
        if account:
            await self.shard.load("org/u", 1000)

    async def stands(self, request_id: str) -> bool:
        """Whether something of this id is charged or held."""
        events = [*self.booked, *await self.shard.events()]
        key = f"org/{request_id}"
        held = await self.redis.hexists(self.shard.keys.holds, key)
        return bool(held) or any(event[3] == key for event in events)

    async def warm(self, name: str) -> None:
        """Return when the meter has a connection that works."""

        async def works() -> bool:
            with suppress(StoreError):
                return bool(await self.ask("charge", name))
            return False

        await eventually(works, within_s=60)

    async def ask(self, kind: str, request_id: str) -> object:
        meter = self.meter
        if kind == "reserve":
            return await meter.reserve("org", "u", AMOUNT, request_id=request_id)
        if kind == "charge":
            return await meter.charge("org", "u", AMOUNT, request_id=request_id)
        if kind == "commit":
            return await meter.commit("org", "u", request_id, 200)
        if kind == "touch":
            return await meter.touch("org", "u", request_id, 100)
        return await meter.release("org", "u", request_id)


@pytest.fixture
async def books(valkey_server: ValkeyFactory) -> AsyncIterator[Books]:
    server = valkey_server("--appendfsync", "always")
    async with Proxy(server.url) as proxy:
        made = Books(server, proxy)
        await made.begin()
        settings = MeterSettings(
            lanes_per_server=1, take_timeout_s=0.15, resolve_timeout_s=0.15, call_timeout_s=0.15
        )

        async def connected() -> bool:
            with suppress(StoreError):
                made.meter = await Meter.connect(proxy.url, loader=made.loader, settings=settings)
                return True
            return False

        await eventually(connected, within_s=60)
        yield made
        await made.meter.aclose()
        await made.redis.aclose()


async def nothing(books: Books) -> None:
    """The repeat finds the server as it was."""


async def out_of_memory(books: Books) -> None:
    await books.redis.config_set("maxmemory", FULL)


async def backlog(books: Books) -> None:
    seq = await books.redis.hget(books.shard.keys.meta, "seq")
    await books.redis.hset(books.shard.keys.meta, "admit_until", seq)


async def drained(books: Books) -> None:
    await books.redis.hset(books.shard.keys.meta, "admit_until", "0")


async def fenced(books: Books) -> None:
    await load_script("fence").call(books.redis, [books.shard.keys.meta], ["looked at"])


async def spent_by_others(books: Books) -> None:
    available, _, _ = await books.shard.account()
    await books.shard.one("charge", f"others-{books.shard.epoch}", available)


async def flushed(books: Books) -> None:
    books.booked += await books.shard.events()
    await books.redis.flushall()


async def flushed_and_poor(books: Books) -> None:
    """The charge was settled, Redis emptied, and what Postgres has left is less than it asks."""
    await flushed(books)
    books.loaded = LoadedAccount(10, 1)
    await books.begin(account=False)


async def rebuilt(books: Books) -> None:
    await books.begin()


async def rebuilt_and_poor(books: Books) -> None:
    books.loaded = LoadedAccount(10, 1)
    await books.begin(account=False)


async def rebuilt_and_nobody_is_known(books: Books) -> None:
    books.loaded = None
    await books.begin(account=False)


async def rebuilt_and_postgres_is_away(books: Books) -> None:
    books.loaded = OSError("away")
    await books.begin(account=False)


async def rebuilt_and_another_has_the_id(books: Books) -> None:
    await books.begin()
    await books.shard.load("org/other", 1000)
    await books.shard.batch(op("charge", books.request_id, 1, user="org/other"))


async def closed_to_writes(books: Books) -> None:
    await books.redis.execute_command("REPLICAOF", "127.0.0.1", "1")


async def restarted(books: Books) -> None:
    books.server.kill()
    books.server.start()


async def broken(books: Books) -> None:
    await books.redis.set(books.shard.keys.deadlines, "of the wrong type")


CONDITIONS: dict[str, Callable[[Books], Awaitable[None]]] = {
    condition.__name__: condition
    for condition in (
        nothing,
        out_of_memory,
        backlog,
        drained,
        fenced,
        spent_by_others,
        flushed,
        flushed_and_poor,
        rebuilt,
        rebuilt_and_poor,
        rebuilt_and_nobody_is_known,
        rebuilt_and_postgres_is_away,
        rebuilt_and_another_has_the_id,
        closed_to_writes,
        restarted,
        broken,
    )
}


async def heal(books: Books) -> None:
    """As an operator and the guardian would, with what the shard has if it has it."""
    await books.redis.config_set("maxmemory", "0")
    await books.redis.execute_command("REPLICAOF", "NO", "ONE")
    if await books.redis.type(books.shard.keys.deadlines) == b"string":
        await books.redis.delete(books.shard.keys.deadlines)
    books.loaded = LoadedAccount(1000, 1)
    meta = await books.redis.hgetall(books.shard.keys.meta)
    if not meta.get(b"epoch", b"").isdigit():
        await books.begin()
    run_id = (await books.redis.info("server"))["run_id"]
    await books.redis.hset(books.shard.keys.meta, "run_id", run_id)
    await books.redis.hdel(books.shard.keys.meta, "admit_until")
    if not await books.redis.hexists(books.shard.keys.accounts, "org/u"):
        await books.shard.load("org/u", 1000)


async def outcome(books: Books, kind: str, request_id: str) -> object:
    try:
        return await books.ask(kind, request_id)
    except MeterError as error:
        return error


def was_refused(told: object) -> bool:
    """Told that it was not done. `RequestReplayed` says what the id stands for."""
    return isinstance(told, MeterError) and not isinstance(told, (OutcomeUnknown, RequestReplayed))


async def no_hold_is_left(books: Books, request_id: str) -> None:
    async def gone() -> bool:
        return not await books.redis.hexists(books.shard.keys.holds, f"org/{request_id}")

    await eventually(gone, what=f"the end of the hold of {request_id}")


async def prepared(books: Books, condition: str, kind: str, attempt: int) -> str:
    """A fresh shard and a meter that is connected to it; returns the id to ask for."""
    request_id = books.request_id = f"{kind}-{attempt}"
    await heal(books)
    await books.begin()
    if kind not in ("reserve", "charge"):
        await books.shard.one("reserve", request_id, AMOUNT)
    await books.warm(f"{kind}-warm-{attempt}")
    return request_id


ATTEMPTS = 30
"""On a busy machine a call may end before it was sent at all: it is made once more."""


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_what_took_effect_is_never_refused(books: Books, condition: str) -> None:
    """The reply is lost, and the condition is there before the client knows."""
    for kind in KINDS:
        for attempt in range(ATTEMPTS):
            request_id = await prepared(books, condition, kind, attempt)
            books.proxy.lose_replies(1, then=lambda: CONDITIONS[condition](books))
            told = await outcome(books, kind, request_id)
            is_lost = books.proxy.replies_to_lose == 0
            if is_lost and (not was_refused(told) or await books.stands(request_id)):
                break
            # Another reply than this call's was lost, such as that of a greeting: once more.
            books.proxy.lose_replies(0)
            await heal(books)
        else:
            raise AssertionError(f"no reply was lost; the last {kind} was told {told!r}")
        assert not was_refused(told), f"{kind} took effect and was told {told!r}"
        await heal(books)
        if kind == "reserve" and isinstance(told, OutcomeUnknown):
            await no_hold_is_left(books, request_id)
            if condition != "rebuilt_and_another_has_the_id":
                await books.redis.hset(books.shard.keys.accounts, "org/u", "1000 0 1")
                again = await outcome(books, "reserve", request_id)
                assert isinstance(again, (Hold, StoreError)), "the id can be used again"


@pytest.mark.parametrize("condition", CONDITIONS)
async def test_what_is_refused_has_no_effect_later(books: Books, condition: str) -> None:
    """The request is held up, the repeat meets the condition, and then the request arrives."""
    for kind in KINDS:
        for attempt in range(ATTEMPTS):
            request_id = await prepared(books, condition, kind, attempt)
            books.proxy.withhold_request(
                request_id.encode(), then=lambda: CONDITIONS[condition](books)
            )
            told = await outcome(books, kind, request_id)
            await heal(books)
            if await books.proxy.deliver() == 1:
                break
        else:
            raise AssertionError("no request was held up")
        if was_refused(told) and kind in ("reserve", "charge"):
            assert not await books.stands(request_id), f"{kind} was told {told!r} and stands"
        if kind == "reserve" and isinstance(told, OutcomeUnknown):
            await no_hold_is_left(books, request_id)


async def test_a_first_answer_that_refuses_is_told_as_it_is(books: Books) -> None:
    """Nothing was sent before it: it is certain."""
    with pytest.raises(InsufficientCredits):
        await books.meter.reserve("org", "u", 1001, request_id="r")
    with pytest.raises(InsufficientCredits):
        await books.meter.charge("org", "u", 1001, request_id="c")
    assert not await books.stands("r")
    assert not await books.stands("c")


async def test_out_of_memory_says_what_an_id_stands_for(books: Books) -> None:
    """The repeat of what was done asks for no memory: it is told so, and not that who knows."""
    settings = MeterSettings(lanes_per_server=1, take_timeout_s=20.0, call_timeout_s=5.0)
    async with await Meter.connect(books.proxy.url, settings=settings) as meter:
        for kind in ("charge", "reserve"):
            await heal(books)
            await meter.charge("org", "u", 1, request_id=f"{kind}-warm")
            books.proxy.lose_replies(1, then=lambda: out_of_memory(books))
            call = meter.charge if kind == "charge" else meter.reserve
            told: Any = await call("org", "u", AMOUNT, request_id=f"{kind}-done")  # type: ignore[operator]
            assert told.request_id == f"{kind}-done"
