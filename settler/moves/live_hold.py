"""Takes credits out of an account's available, and gives them back: the live side of moves.

What a move holds is an ordinary hold under a key that no gateway can reach: a request id has no
`/`, and the id of a move's hold has one. The entry that books the move ends it.
"""

from __future__ import annotations

from typing import Final
from uuid import UUID

from taximeter.meter.wire.keys import account_field, shard_of
from taximeter.meter.wire.limits import AMOUNT_MAX
from taximeter.meter.wire.operations import Operation, Reply, parse_reply
from taximeter.meter.wire.scripts import Script, load_script
from taximeter.settler.books.accounts import Account
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark, read_marks
from taximeter.settler.moves.relay import load

_OPERATE: Final = load_script("operate")
_RESOLVE: Final = load_script("resolve")
_TTL_MS: Final = 3_600_000


class NotTaking(Exception):
    """No credit can be taken out of live accounts now; the message says why."""


def hold_key(org_id: str, move_id: UUID) -> str:
    """Key of the hold of a move. The SQL function that books the move makes the same."""
    return f"{org_id}/move/{move_id}"


async def mark_of(stores: Stores, org_id: str) -> Mark:
    """The shard that has the accounts of an organisation. Raises NotTaking, asyncpg errors."""
    marks = await read_marks(stores.pool)
    if not marks:
        raise NotTaking("no settler has ever run for this database")
    return marks[shard_of(org_id, len(marks))]


async def check_taking(stores: Stores, mark: Mark) -> None:
    """Return when the shard would take credit now, so that nothing is begun that cannot go on; the
    scripts decide again. Raises NotTaking, redis errors.
    """
    meta = stores.keys(mark.shard).meta
    epoch, seq, until = await stores.redis.hmget(meta, "epoch", "seq", "admit_until")
    if epoch != str(mark.epoch).encode() or seq is None:
        found = (epoch or b"not open").decode()
        raise NotTaking(f"shard {mark.shard} is {found}, not at epoch {mark.epoch}")
    if until is not None and int(seq) >= int(until):
        raise NotTaking(f"shard {mark.shard} takes no credit: drained, or too much is unsettled")


async def is_loaded(stores: Stores, mark: Mark, account: Account) -> bool:
    """Load an account that Redis does not have; False when Postgres knows none. Raises redis and
    asyncpg errors.
    """
    name = account_field(*account)
    if await stores.redis.hget(stores.keys(mark.shard).accounts, name) is not None:
        return True
    return await load(stores, mark, account)


async def take(stores: Stores, mark: Mark, account: Account, move_id: UUID, amount: int) -> Reply:
    """Hold `amount` millicredits for a move.

    Safe to repeat: the same move holds once. The hold ends with the move's entry or by `give_back`;
    if neither comes, after an hour. Raises redis errors, ResponseError when the shard is closed or
    out of memory.
    """
    operation = Operation(
        "reserve",
        account_field(*account),
        hold_key(account[0], move_id),
        amount,
        _TTL_MS,
        move_id.hex,
    )
    return await _send(_OPERATE, stores, mark, operation)


async def give_back(stores: Stores, mark: Mark, account: Account, move_id: UUID) -> None:
    """Release what a move has held, if it has; also when Redis is out of memory. Raises redis
    errors.
    """
    operation = Operation("release", account_field(*account), hold_key(account[0], move_id))
    await _send(_RESOLVE, stores, mark, operation)


async def movable(stores: Stores, mark: Mark, account: Account) -> int:
    """What a move could take out of an account now, at most the largest amount of one operation.
    0 when Redis does not have it. Raises redis errors.
    """
    record = await stores.redis.hget(stores.keys(mark.shard).accounts, account_field(*account))
    return 0 if record is None else max(0, min(int(record.split(b" ")[0]), AMOUNT_MAX))


async def _send(script: Script, stores: Stores, mark: Mark, operation: Operation) -> Reply:
    raw, _ = await script.call(
        stores.redis, stores.keys(mark.shard).batch(), [mark.epoch, *operation]
    )
    return parse_reply(raw)
