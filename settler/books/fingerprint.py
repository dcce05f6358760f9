"""Tells an entry of the stream from another one under the same id."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.timelines import histories_of, later_history, superseded

_DIGEST_BYTES: Final = 16


class StreamChanged(Exception):
    """The stream has something else where the last settled event was: its server has lost what
    Postgres has settled, and went on. Nothing is settled before the guardian has rebuilt the shard.
    """


def fingerprint(entry_id: bytes, fields: Mapping[bytes, bytes]) -> str:
    """The id, and a digest of all that the entry holds."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for part in (part for field in sorted(fields.items()) for part in field):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    return f"{entry_id.decode()} {digest.hexdigest()}"


def applies(settled_entry: str | None, epoch: int, seq: int) -> bool:
    """Whether a fingerprint speaks of the watermark at (epoch, seq)."""
    return settled_entry is not None and settled_entry.startswith(f"{epoch}-{seq} ")


def found_instead(entries: Any, settled_entry: str) -> str | None:
    """What the stream has under the id of a fingerprint, in words; None when it is that entry.
    `entries`: what XRANGE of that id answered.
    """
    if not entries:
        return "nothing"
    found = fingerprint(*entries[0])
    return None if found == settled_entry else "another entry"


async def check_settled(
    redis: Any, keys: ShardKeys, epoch: int, seq: int, settled_entry: str | None
) -> None:
    """Return when the stream has the last settled entry, or nobody knows which one that was. Raises
    StreamChanged, redis errors.
    """
    if settled_entry is None or not applies(settled_entry, epoch, seq):
        return
    entry_id = f"{epoch}-{seq}"
    instead = found_instead(await redis.xrange(keys.events, entry_id, entry_id), settled_entry)
    if instead is not None:
        raise StreamChanged(
            f"shard {keys.shard} has {instead} under {entry_id}, which is settled: it lost what"
            " Postgres has, and went on"
        )


async def check_approved(
    redis: Any, keys: ShardKeys, run_id: str | None, history: str | None
) -> None:
    """Return when the data is that of the server which was approved last, or what follows from it.
    What another one has that is not settled may have ended otherwise since, so only the guardian
    settles it. Raises StreamChanged, redis errors, and SupersededPostgres when the shard has been
    seen with a Postgres that was promoted after that of `history`.
    """
    found, *seen = await redis.hmget(keys.meta, "run_id", "postgres", "ledger")
    later = later_history(history, histories_of(seen))
    if history is not None and later is not None:
        raise superseded(history, later)
    if run_id is not None and found is not None and found.decode() != run_id:
        raise StreamChanged(
            f"the data of shard {keys.shard} goes back to a server ({found.decode()}) before the"
            f" approved one ({run_id})"
        )
