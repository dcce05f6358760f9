"""The settler's steps on a small world: guard, settle, relay, sweep, and what people ask for.

What is decided is decided by the settler's own `judge`, `Run` and `Claims`.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import ResponseError

from search.ledger import Charged, known
from taximeter.meter.keys import ShardKeys
from taximeter.settler.verdict import Action, Seen, judge

KEYS = ShardKeys("tm", 0)
ACCOUNT = "org/u"
DEDUCTED = 60
PROGRESS_OF_ANY_START = ("sweep", "if progress > 0 then", "if progress > 0 then")
"""Script, what makes an expiry charge only what was reported since a start that may have lost
something, and the same without that.
"""
TTL_MS = 1_000


def guard(world: Any) -> None:
    """`guardian.guard`."""
    books, store = world.books, world.store
    last = store.streams.get(KEYS.events, (None,))[0]
    seen = Seen(f"{store.run_id:040x}", dict(store.hashes.get(KEYS.meta, {})), last)
    verdict = judge(books.mark(), seen, 1)
    if verdict.action is Action.REBUILD:
        rebuild(world)
    elif verdict.action is Action.APPROVE:
        books.run_id = store.run_id
        world.run("approve", [KEYS.meta], [books.epoch, seen.run_id])


def rebuild(world: Any) -> None:
    """`rebuild.rebuild`."""
    books = world.books
    world.run("fence", [KEYS.meta], ["rebuilt"])
    while books.settle(world.store, KEYS):
        pass
    epoch, seq = known(world.store, KEYS)
    if epoch == books.epoch and seq > books.seq:
        books.lose(seq)
    books.epoch, books.seq, books.run_id = max(epoch, books.epoch) + 1, 0, world.store.run_id
    try:
        reopen(world)
    except ResponseError as error:
        # It stays closed, and the guardian begins anew.
        if not str(error).startswith("OOM"):
            raise


def reopen(world: Any) -> None:
    """Everything is settled and the epoch begun: let clients in. Raises ResponseError."""
    run_id = f"{world.store.run_id:040x}"
    world.run("open", KEYS.batch(), [world.books.epoch, 1, run_id])


def settle(world: Any) -> None:
    world.books.settle(world.store, KEYS)


def sweep(world: Any) -> None:
    """Later, when every deadline has passed."""
    store = world.store.copy()
    store.clock_ms += TTL_MS + 1
    world.change(store)
    keys = [KEYS.accounts, KEYS.holds, KEYS.deadlines, KEYS.outcomes, KEYS.meta, KEYS.events]
    if _is_open(world):
        world.run("sweep", keys, [world.books.epoch, 1000])


def relay(world: Any) -> None:
    """`relay.relay`: what the account lacks, or the account."""
    if not _is_open(world):
        return
    record = world.store.hashes.get(KEYS.accounts, {}).get(ACCOUNT)
    if record is None:
        load(world)
        return
    relay_all(world, int(record.split(" ")[2]))


def relay_all(world: Any, applied: int = 0) -> None:
    """Send every entry after `applied`."""
    books = world.books
    for number, (delta, hold) in enumerate(books.entries[applied:], applied + 1):
        keys = [KEYS.accounts, KEYS.meta, KEYS.holds, KEYS.deadlines, KEYS.outcomes]
        world.run("apply", keys, [books.epoch, ACCOUNT, number, delta, hold])


def load(world: Any) -> None:
    """`accounts.load_accounts` and the script."""
    books = world.books
    _unless_full(
        world, "load", [KEYS.accounts, KEYS.meta],
        [books.epoch, ACCOUNT, books.free, len(books.entries)],
    )  # fmt: skip


def rotate(world: Any) -> None:
    store = world.store.copy()
    store.hashes.get(KEYS.meta, {})["rotated_ms"] = "0"
    world.change(store)
    if _is_open(world):
        world.run(
            "rotate", [KEYS.outcomes, KEYS.outcomes_old, KEYS.meta], [world.books.epoch, 300_000]
        )


def drain(world: Any) -> None:
    if _is_open(world):
        world.run("drain", [KEYS.meta], [world.books.epoch, 60_000])


def deduct(world: Any) -> None:
    said = world.books.deduct("sql", DEDUCTED)
    world.told["sql"] = (*world.told.get("sql", ()), ("deduct", DEDUCTED, said))


def _unless_full(world: Any, name: str, keys: list[str], args: list[Any]) -> None:
    """What is out of memory is done by the next round."""
    try:
        world.run(name, keys, args)
    except ResponseError as error:
        if not str(error).startswith("OOM"):
            raise


def charged(amount: int) -> Charged:
    """What a deduction leaves in the books."""
    return Charged("u", amount, False, False)


def _is_open(world: Any) -> bool:
    epoch = world.store.hashes.get(KEYS.meta, {}).get("epoch", "")
    return epoch == str(world.books.epoch)
