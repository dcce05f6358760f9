"""Relays numbered entries from Postgres to the live accounts, in order, each exactly once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import asyncpg
from redis.exceptions import RedisError, ResponseError

from taximeter.meter.wire.codes import Code
from taximeter.meter.wire.keys import account_field, shard_of
from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.accounts import Account, last_applied, load_accounts
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.postgres_position import step_and_note_position
from taximeter.settler.books.stores import Stores
from taximeter.settler.books.watermarks import Mark, read_marks

_SQL: Final = load_queries("accounts")
_APPLY: Final = load_script("apply")
_LOAD: Final = load_script("load")
_ENTRIES_PER_CALL: Final = 1_000
_ROUNDS_MAX: Final = 1_000


@dataclass(slots=True)
class Relayed:
    """What one relay run came to: entries applied, accounts loaded, accounts that refused, shards
    that were closed. through: whether it came to the end of those that were behind.
    """

    applied: int = 0
    loaded: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    closed_shards: dict[int, str] = field(default_factory=dict)
    through: bool = False


async def relay(
    stores: Stores,
    *,
    page_accounts: int = 500,
    accounts_max: int = 50_000,
    away: Iterable[int] = (),
) -> Relayed:
    """Bring every account that is behind up to date, at most `accounts_max` of them.

    Safe to run any number of times at once: Redis applies entry n only after n - 1 and only once,
    and Postgres only keeps a hint of how far Redis is. A crash here loses nothing. A closed shard
    is passed over and named in the answer; so are those in `away` and, of several servers, the
    shards of one that is away. Raises redis errors where it is one server.
    """
    done = Relayed(closed_shards=dict.fromkeys(away, "its server does not answer"))
    silent: set[str] = set()
    marks = await read_marks(stores.pool)
    if not marks:
        return done
    after: Account = ("", "")
    for _ in range(0, accounts_max, page_accounts):
        rows = await stores.pool.fetch(_SQL["accounts_behind"], *after, page_accounts)
        by_shard: dict[int, dict[Account, int]] = {}
        for row in rows:
            account = (row["org_id"], row["user_id"])
            shard = shard_of(account[0], len(marks))
            by_shard.setdefault(shard, {})[account] = row["applied_seq"]
        for shard, hints in by_shard.items():
            server = stores.server_name(shard)
            if server in silent:
                done.closed_shards.setdefault(shard, "its server does not answer")
            if shard in done.closed_shards:
                continue
            try:
                await _relay_accounts(stores, marks[shard], hints, done)
            except ResponseError as error:
                done.closed_shards[shard] = str(error)
            except (RedisError, OSError) as error:
                if not server:
                    raise
                silent.add(server)
                done.closed_shards[shard] = f"{type(error).__name__} {error}".rstrip()
        if len(rows) < page_accounts:
            done.through = True
            break
        after = (rows[-1]["org_id"], rows[-1]["user_id"])
    return done


async def bring_up_to_date(stores: Stores, mark: Mark, accounts: Sequence[Account]) -> bool:
    """Apply now what some accounts of one shard lack, instead of with the next run of `relay`.
    False when Redis has refused an entry of theirs.

    What they lack Redis is asked, since hints may be wrong after a restart. Raises ResponseError
    when the shard is closed, asyncpg and redis errors. Safe as `relay` is.
    """
    names = [account_field(*account) for account in accounts]
    records = await stores.redis.hmget(stores.keys(mark.shard).accounts, names)
    rows = await stores.pool.fetch(
        _SQL["accounts_short_of"],
        [org_id for org_id, _ in accounts],
        [user_id for _, user_id in accounts],
        [last_applied(record) for record in records],
    )
    hints = {(row["org_id"], row["user_id"]): row["applied"] for row in rows}
    done = Relayed()
    if hints:
        await _relay_accounts(stores, mark, hints, done)
    return not done.refused


async def load(stores: Stores, mark: Mark, account: Account) -> bool:
    """Write an account of the shard into Redis unless it is there; False when Postgres knows
    none. Raises as `bring_up_to_date`.
    """
    return bool(await _load(stores, mark, [account], Relayed()))


async def _relay_accounts(
    stores: Stores, mark: Mark, hints: dict[Account, int], done: Relayed
) -> None:
    """Send what these accounts of one shard lack. `hints` ends up as what Redis said."""
    behind = set(hints)
    said: dict[Account, int] = {}
    for _ in range(_ROUNDS_MAX):
        wanted = sorted(behind)
        if not wanted:
            break
        entries = await stores.pool.fetch(
            _SQL["entries_after"],
            [org_id for org_id, _ in wanted],
            [user_id for _, user_id in wanted],
            [said.get(account, hints[account]) for account in wanted],
            _ENTRIES_PER_CALL,
        )
        if entries:
            # Before they are applied: a Postgres that lacks them can then be told from this one.
            await step_and_note_position(stores, mark.shard, mark.epoch)
        answered, missing = await _apply(stores, mark, entries, done)
        answered |= await _load(stores, mark, missing, done)
        # An account without a further entry in a page that was not full has all of them.
        progressed = {
            account for account, applied in answered.items() if said.get(account) != applied
        }
        full = len(entries) == _ENTRIES_PER_CALL
        said |= answered
        behind = {
            account
            for account in behind
            if account in progressed or (full and account not in answered)
        } - {account for account in behind if account_field(*account) in done.refused}
    if said:
        await stores.pool.execute(
            _SQL["move_hints"],
            [org_id for org_id, _ in said],
            [user_id for _, user_id in said],
            list(said.values()),
            mark.shard,
            mark.epoch,
            mark.run_id,
            mark.starts,
        )


async def _apply(
    stores: Stores, mark: Mark, entries: list[asyncpg.Record], done: Relayed
) -> tuple[dict[Account, int], list[Account]]:
    """Send entries; returns how far each account now is, and the accounts that Redis does not
    have.
    """
    keys = stores.keys(mark.shard)
    answered: dict[Account, int] = {}
    missing: dict[Account, None] = {}
    if not entries:
        return answered, []
    args: list[str | int | bytes] = [mark.epoch]
    accounts: list[Account] = []
    for org_id, user_id, number, delta, hold in entries:
        accounts.append((org_id, user_id))
        args += [account_field(org_id, user_id), number, delta, hold or ""]
    replies = await _APPLY.call(
        stores.redis,
        keys.applying(),
        args,
    )
    for account, reply in zip(accounts, replies, strict=True):
        code_text, _, rest = reply.decode().partition(" ")
        code = Code(int(code_text))
        if code is Code.NOT_LOADED:
            missing[account] = None
        elif code is Code.INVALID:
            done.refused[account_field(*account)] = rest
            answered.pop(account, None)
        elif account_field(*account) not in done.refused:
            answered[account] = int(rest)
            done.applied += code is Code.OK
    return answered, list(missing)


async def _load(
    stores: Stores, mark: Mark, missing: list[Account], done: Relayed
) -> dict[Account, int]:
    """Load accounts that Redis does not have.

    Leaving that to the first client would lose an entry: one that has read its snapshot before the
    entry would write it after we had passed the entry over.
    """
    if not missing:
        return {}
    keys = stores.keys(mark.shard)
    loaded = await load_accounts(stores.pool, missing)
    if not loaded:
        return {}
    args: list[str | int | bytes] = [mark.epoch]
    for account, figures in loaded.items():
        args += [account_field(*account), figures.available, figures.applied]
    replies = await _LOAD.call(stores.redis, [keys.accounts, keys.meta], args)
    answered: dict[Account, int] = {}
    for account, reply in zip(loaded, replies, strict=True):
        code_text, *fields = reply.decode().split(" ")
        if Code(int(code_text)) in (Code.INVALID, Code.ELSEWHERE):
            done.refused[account_field(*account)] = fields[0]
        else:
            answered[account] = int(fields[2])
            done.loaded += Code(int(code_text)) is Code.OK
    return answered
