"""Lets a shard remember which Postgres it was seen with and how far that was, for the day on which
Postgres is less far, or goes on from an older copy.

A Postgres that was put back to an older copy gives numbers of entries again that a live account has
applied already, so nothing of theirs may be applied before the shard knows how far Postgres is.
Each time entries are relayed, and each time events are settled, Postgres makes a step with a random
number: a copy that goes on makes others, however much it writes. That step is committed to the disk
before anything is applied, and what was read before it is then on the disk as well, also what
somebody has committed without waiting (synchronous_commit off).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

import asyncpg
from redis.exceptions import ResponseError

from taximeter.meter.wire.scripts import load_script
from taximeter.settler.books.named_sql import load_queries
from taximeter.settler.books.stores import Connection, Pool, Stores

_SQL: Final = load_queries("guardian")
_NOTE_POSTGRES: Final = load_script("note_postgres")
_TRIES: Final = 5
_TOKEN_BITS: Final = 31


@dataclass(frozen=True, slots=True)
class Ledger:
    """Which Postgres this is, and how far: `position` (bytes of its log that are on the disk) only
    grows within one `history` (system identifier and timeline), and so does `settled` (the shard's
    watermark) within an epoch.

    `step` counts the transactions that have settled or relayed something of the shard; `tokens` has
    a random number for each of the last ones, the youngest first. Of what a shard remembers there
    is one. A step of 0 says that nothing is known of them.
    """

    history: str
    position: int
    settled: int
    step: int = 0
    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        text = f"{self.history} {self.position} {self.settled}"
        return f"{text} {self.step} {self.tokens[0]}" if self.tokens else text

    @classmethod
    def parse(cls, text: str) -> Ledger | None:
        """What a shard's meta says, None when it says nothing that can be read."""
        history, *figures = text.split(" ")
        if not all(figure.isdigit() for figure in figures):
            return None
        match [int(figure) for figure in figures]:
            case [position, settled]:  # Of a release that knew no steps.
                return cls(history, position, settled)
            case [position, settled, step, token]:
                return cls(history, position, settled, step, (token,))
        return None

    def continues(self, before: Ledger) -> bool:
        """Whether everything that was on the disk at `before` is still there, as far as these
        figures can tell.
        """
        return (
            self.history == before.history
            and self.position >= before.position
            and self.settled >= before.settled
            and self._has_made_step_of(before)
        )

    def _has_made_step_of(self, before: Ledger) -> bool:
        """Whether the last step of `before` is one of ours: a copy that was put back made others.
        Too far back for our tokens, figures are all there is.
        """
        if not before.tokens:
            return True
        back = self.step - before.step
        return back >= 0 and (back >= len(self.tokens) or self.tokens[back] == before.tokens[0])


class PostgresWentBack(ResponseError):
    """The shard is closed to entries of this Postgres until a guardian has looked at it."""


def ledger_of(row: asyncpg.Record) -> Ledger:
    """The ledger of a row that has its figures."""
    return Ledger(row["history"], row["position"], row["seq"], row["step"], tuple(row["tokens"]))


async def note_position(stores: Stores, shard: int, epoch: int, ledger: Ledger) -> bool:
    """Write it into the shard's meta; False when a Postgres that was further, or another one, has
    been seen there, and nothing was written. Raises redis errors, ResponseError when the shard is
    not at `epoch` any more.
    """
    reply = await _NOTE_POSTGRES.call(
        stores.redis,
        [stores.keys(shard).meta],
        [epoch, str(ledger), " ".join(map(str, ledger.tokens))],
    )
    return bool(reply == b"OK")


async def step_and_note_position(stores: Stores, shard: int, epoch: int) -> None:
    """Make a step, and note how far Postgres is then: all that anybody has read from it so far is
    on its disk, and covered. Raises asyncpg errors as well, and PostgresWentBack.
    """
    await make_step(stores.pool, shard)
    for _ in range(_TRIES):
        ledger = await _read_ledger(stores, shard)
        if ledger is None or await note_position(stores, shard, epoch, ledger):
            return
        if await _is_covered(stores, shard, ledger):
            return
    raise PostgresWentBack(f"shard {shard} has seen a Postgres that was further than this one")


async def make_step(conn: Connection | Pool, shard: int) -> None:
    """Add a random number to the history of this Postgres, in the transaction of `conn` or in one
    of its own.
    """
    await conn.execute(_SQL["move_ledger"], shard, secrets.randbits(_TOKEN_BITS))


async def _is_covered(stores: Stores, shard: int, ledger: Ledger) -> bool:
    """Whether somebody has noted a later moment of this same Postgres in between, which it has not
    gone back behind: that stands for ours.
    """
    text = await stores.redis.hget(stores.keys(shard).meta, "ledger")
    noted = None if text is None else Ledger.parse(text.decode())
    now = await _read_ledger(stores, shard)
    if noted is None or now is None:
        return False
    is_later = (
        noted.history == ledger.history
        and noted.position >= ledger.position
        and noted.step >= ledger.step
    )
    return is_later and now.continues(noted)


async def _read_ledger(stores: Stores, shard: int) -> Ledger | None:
    row = await stores.pool.fetchrow(_SQL["read_ledger"], shard)
    return None if row is None else ledger_of(row)
