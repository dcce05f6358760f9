"""Checks on every new connection that the guardian has approved this very server.

The client has no Postgres. The settler's guardian compares Redis with Postgres and writes the run
id of a server whose data it found whole into the shard's meta; a server with another run id, or
without meta, admits nobody until then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from hiredis import pack_command
from redis.exceptions import ResponseError

from taximeter.meter.server.acknowledged import Acknowledged, Told
from taximeter.meter.wire.errors import ShardFenced
from taximeter.meter.wire.keys import ShardKeys
from taximeter.meter.wire.limits import OPEN_HOLDS_MAX
from taximeter.meter.wire.replies import text_of

FORMAT = "1"
"""Version of keys and records that this release reads and writes."""
_FIELDS: Final = (
    *("epoch", "shards", "run_id", "format", "fenced_reason", "writes", "start"),
    *("start_writes", "open_holds_max"),
)


class Life(NamedTuple):
    """One start of one server of a shard: what it forgets, nobody was told since it began."""

    epoch: str
    run_id: str
    start: str
    """As the guardian counts them."""


@dataclass(frozen=True, slots=True)
class ShardIdentity:
    """Which generation of which shard answers on a connection."""

    life: Life
    shards: int
    open_holds_max: int
    """How many holds an account may have open."""


class Greeting(NamedTuple):
    """Of which shard, and who is told what its server says."""

    keys: ShardKeys
    check_count: Callable[[str], None] | None = None
    acknowledged: Acknowledged | None = None


async def greet(
    connection: Any,
    keys: ShardKeys,
    check_count: Callable[[str], None] | None = None,
    acknowledged: Acknowledged | None = None,
) -> ShardIdentity:
    """Read run id and meta on a redis-py connection.

    Raises ShardFenced unless the guardian approved this very server, and before that what
    `check_count` raises about the number of shards (as text; also a shard that is no more has it).
    `acknowledged` is told how many calls have changed the shard, also when nobody is admitted.
    """
    (found,) = await greet_all(connection, [Greeting(keys, check_count, acknowledged)])
    if isinstance(found, ShardIdentity):
        return found
    raise found


async def greet_all(
    connection: Any, greetings: Sequence[Greeting]
) -> list[ShardIdentity | ShardFenced | ResponseError]:
    """As `greet` for several shards of one server, in one round trip; what it would raise for one
    of them stands in its place. Raises what is about the whole connection.
    """
    known = [one.acknowledged.told if one.acknowledged else None for one in greetings]
    await connection.send_command("INFO", "server")
    asked: list[tuple[Any, ...]] = [("HMGET", one.keys.meta, *_FIELDS) for one in greetings]
    await connection.send_packed_command([*map(pack_command, asked)], check_health=False)
    info = text_of(await connection.read_response(disable_decoding=True))
    run_id = next(
        (line[7:].strip() for line in info.splitlines() if line.startswith("run_id:")), ""
    )
    found: list[ShardIdentity | ShardFenced | ResponseError] = []
    for one, before in zip(greetings, known, strict=True):
        try:
            fields = await connection.read_response(disable_decoding=True)
            found.append(_admitted(one, before, run_id, [text_of(value) for value in fields]))
        except (ShardFenced, ResponseError) as error:
            found.append(error)
    return found


def _admitted(
    greeting: Greeting, before: Told | None, run_id: str, fields: list[str]
) -> ShardIdentity:
    keys, check_count, acknowledged = greeting
    epoch, found_shards, approved, data_format, reason, writes, start, began, most = fields
    if check_count is not None:
        check_count(found_shards)
    if not epoch:
        raise ShardFenced(f"shard {keys.shard} has not been opened yet; is the settler running?")
    if not epoch.isdigit():
        raise ShardFenced(f"shard {keys.shard} is closed: {reason or 'no reason given'}")
    if data_format != FORMAT:
        raise ShardFenced(
            f"shard {keys.shard} has data format {data_format or '-'}; this client reads {FORMAT}"
        )
    if acknowledged is not None and before is not None:
        found = int(writes) if writes.isdigit() else 0
        start_writes = int(began) if began.isdigit() else found
        acknowledged.greet(before, epoch, found, run_id, start, start_writes)
    if approved != run_id:
        raise ShardFenced(
            f"shard {keys.shard} is on a server that the settler's guardian has not approved yet"
        )
    return ShardIdentity(
        life=Life(epoch, run_id, start),
        shards=int(found_shards),
        open_holds_max=int(most) if most.isdigit() else OPEN_HOLDS_MAX,
    )
