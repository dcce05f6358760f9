"""The settler's steps on a small world: guard, settle, relay, sweep, and what people ask for.

What is decided is decided by the settler's own `judge`, `Run` and `ChargedRequests`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from redis.exceptions import ResponseError

from search.ledger import Books, Charged, Said, known
from search.store import Store
from taximeter.meter.wire.hold_record import HoldRecord
from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.shards.verdict import (
    Action,
    ShardView,
    is_of_another_history,
    is_whole,
    judge,
)

KEYS = ShardKeys("tm", 0)
ACCOUNT = "org/u"
DEDUCTED = 60
TTL_MS = 1_000


class Walk(NamedTuple):
    """A walk through all accounts: where, at which start, and since when by the clock of Redis."""

    epoch: int
    start: str
    began_ms: int


def look(world: Any) -> ShardView:
    """As `view_shard` of the settler."""
    store = world.store
    last = store.streams.get(KEYS.events, (None,))[0]
    run_id, replid = f"{store.run_id:040x}", f"{store.replid:040x}"
    entry = world.books.found(store, KEYS)
    return ShardView(run_id, dict(store.hashes.get(KEYS.meta, {})), last, replid, entry)


def guard(world: Any) -> None:
    """`guardian.guard`."""
    books, seen = world.books, look(world)
    verdict = judge(books.mark(), seen, 1)
    if verdict.action is Action.REBUILD:
        rebuild(world)
    elif verdict.action is Action.APPROVE:
        start = books.approve(world.store.run_id, seen.start)
        world.run("approve", [KEYS.meta], [books.epoch, seen.run_id, seen.replid, start])


def guard_dies(world: Any) -> None:
    """It has written down in Postgres which server it approves, and dies before Redis hears it."""
    books, seen = world.books, look(world)
    if judge(books.mark(), seen, 1).action is Action.APPROVE:
        books.approve(world.store.run_id, seen.start)


def carry(world: Any, seen: ShardView, whole: bool) -> tuple[int, list[Any]]:
    """`carry.carry_holds`: the number of this start, the accounts with open holds, and the holds
    that the ledger has ended, lately or though they are open here.
    """
    records = world.store.hashes.get(KEYS.holds, {})
    holds = {key: HoldRecord.parse(record) for key, record in records.items()}
    start = seen.start if whole else seen.start + 1
    newest = max((hold.start or 0 for hold in holds.values()), default=0)
    start = newest + 1 if newest > start else start
    books = world.books
    rows: list[Any] = [ACCOUNT, books.free, len(books.entries)] if holds else []
    keys = {} if whole else {f"org/{request}": 0 for request in books.expired()}
    for key, amount in (keys | {key: hold.amount for key, hold in holds.items()}).items():
        charged = books.ended(key.partition("/")[2])
        if charged is not None:
            state = "expired" if charged[1] else "committed"
            rows += [key, f"{state} {amount} {charged[0]} {ACCOUNT}", "ended"]
    return start, rows


def rebuild(
    world: Any,
    carry: Callable[..., tuple[int, list[Any]]] = carry,
    is_another: Callable[..., bool] = is_of_another_history,
) -> None:
    """`rebuild.rebuild`."""
    books, seen = world.books, look(world)
    whole = int(is_whole(books.mark(), seen))
    world.run("fence", [KEYS.meta], ["rebuilt", whole, books.epoch])
    if is_another(books.mark(), look(world)):
        books.displace(world.store, KEYS)
    while books.settle(world.store, KEYS, closed=True):
        pass
    epoch, seq = known(world.store, KEYS)
    if epoch == books.epoch and seq > books.seq:
        books.lose(seq)
    books.epoch, books.seq = max(epoch, books.epoch) + 1, 0
    seen = look(world)
    whole = seen.is_approved_server and seen.meta.get("fenced_whole") == "1"
    start, accounts = carry(world, seen, whole)
    books.approve(world.store.run_id, start)
    args = [books.epoch, 1, seen.run_id, seen.replid, start, int(whole), *accounts]
    # When memory is out it stays closed, and the guardian begins anew.
    _unless_full(world, "open", KEYS.batch(), args)


def settle(world: Any) -> None:
    world.books.settle(world.store, KEYS)


def sweep(world: Any) -> None:
    """Later, when every deadline has passed."""
    world.alter("later", _later)
    if _is_open(world):
        # Without a look of the guardian before it: a settler may have frozen in between.
        with suppress(ResponseError):
            world.run("sweep", KEYS.sweeping(), [world.books.epoch, 1000])


def relay(world: Any) -> None:
    """`relay.relay` and `fill.note_complete`; and the walk, where that is no step of its own."""
    meta = world.store.hashes.get(KEYS.meta, {})
    is_filled, asked_ms = "complete_ms" in meta and "hints_due" not in meta, world.store.clock_ms
    said = send(world)
    if said is not None:
        move_hint(world, said)
    if is_filled and _is_open(world):
        args = [world.books.epoch, meta.get("start", "0"), asked_ms, 0]
        world.run("complete", [KEYS.meta], args)
    if not world.rules.budgets["walk"]:
        walk(world)


def send(world: Any) -> Said | None:
    """What Redis says after every entry was sent that it is not known to have; None where there is
    nothing to send.
    """
    books: Books = world.books
    applied = books.hint
    if applied >= len(books.entries) or not _is_open(world):
        return None
    if ACCOUNT not in world.store.hashes.get(KEYS.accounts, {}):
        load(world)
        record = world.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT)
        return None if record is None else books.said(int(record.split(" ")[2]))
    while applied < len(books.entries):
        delta, hold = books.entries[applied]
        args = [books.epoch, ACCOUNT, applied + 1, delta, hold]
        (reply,) = world.run("apply", KEYS.applying(), args)
        applied = int(reply.split(" ")[1])
    return books.said(applied)


def move_hint(world: Any, said: Said) -> None:
    """A relay that was answered writes it down, now or when it wakes."""
    world.books.move_hint(said)


def relay_all(world: Any, applied: int = 0) -> None:
    """Send every entry after `applied`."""
    books = world.books
    for number, (delta, hold) in enumerate(books.entries[applied:], applied + 1):
        world.run("apply", KEYS.applying(), [books.epoch, ACCOUNT, number, delta, hold])


def walk(world: Any) -> None:
    """`Filler.fill`, from its begin to its end."""
    walking = walk_begins(world)
    if walking is not None:
        walk_ends(world, walking)


def walk_begins(world: Any) -> Walk | None:
    """The account is loaded, or compared; None where there is nothing to do, or no memory."""
    meta = world.store.hashes.get(KEYS.meta, {})
    if not _is_open(world) or ("complete_ms" in meta and "hints_due" not in meta):
        return None
    walking = Walk(world.books.epoch, meta.get("start", "0"), world.store.clock_ms)
    record = world.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT)
    if record is None:
        load(world)
        return walking if ACCOUNT in world.store.hashes.get(KEYS.accounts, {}) else None
    world.books.hint = min(world.books.hint, int(record.split(" ")[2]))
    return walking


def walk_ends(world: Any, walking: Walk) -> None:
    """All accounts were looked at: that is written down, unless there was another start since."""
    with suppress(ResponseError):
        world.run("complete", [KEYS.meta], [*walking, 1])


def load(world: Any) -> None:
    """`accounts.load_accounts` and the script."""
    books = world.books
    _unless_full(
        world, "load", [KEYS.accounts, KEYS.meta],
        [books.epoch, ACCOUNT, books.free, len(books.entries)],
    )  # fmt: skip


def rotate(world: Any) -> None:
    if _is_open(world):
        world.alter("rotated long ago", lambda s: s.call("HSET", KEYS.meta, "rotated_ms", "0"))
        world.run(
            "rotate", [KEYS.outcomes, KEYS.outcomes_old, KEYS.meta], [world.books.epoch, 300_000]
        )


def drain(world: Any) -> None:
    if _is_open(world):
        world.run("drain", [KEYS.meta], [world.books.epoch, 60_000])


def open_credits(world: Any) -> int:
    """What holds and charges that are not settled come to, all in Redis at one moment."""
    record = world.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT, "0 0 0")
    return int(record.split(" ")[1]) + world.books.unsettled(world.store, KEYS)


def expose(world: Any) -> None:
    """The settler writes down what is open, about every second."""
    if _is_open(world):
        world.books.exposure = open_credits(world)


def deduct(world: Any) -> None:
    """What was opened since the settler looked last may be promised twice, and no more."""
    unseen = max(0, open_credits(world) - world.books.exposure)
    said = world.books.deduct("sql", DEDUCTED)
    world.unseen += unseen if said else 0
    world.told["sql"] = (*world.told.get("sql", ()), ("deduct", DEDUCTED, said))


def _unless_full(world: Any, name: str, keys: list[str], args: list[Any]) -> None:
    """What is out of memory is done by the next round."""
    try:
        world.run(name, keys, args)
    except ResponseError as error:
        if not str(error).startswith("OOM"):
            raise


def _later(store: Store) -> None:
    store.clock_ms += TTL_MS + 1


def charged(amount: int) -> Charged:
    """What a deduction leaves in the books."""
    return Charged("u", amount, False, False)


def _is_open(world: Any) -> bool:
    epoch = world.store.hashes.get(KEYS.meta, {}).get("epoch", "")
    return epoch == str(world.books.epoch)
