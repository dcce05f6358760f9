"""Judges whether a shard's Redis data is what Postgres knows it to be. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from taximeter.settler.books.postgres_position import Ledger
from taximeter.settler.books.stores import DATA_FORMAT
from taximeter.settler.books.timelines import later_history, superseded
from taximeter.settler.books.watermarks import Mark

_START_DIGITS_MAX: Final = 15


class Action(Enum):
    """What the guardian has to do about a shard."""

    NOTHING = "nothing"
    """The data is whole and the server is the approved one."""
    OPEN = "open"
    """A fresh system: neither store has ever seen this shard in use."""
    APPROVE = "approve"
    """The data is whole, on a server that nobody has looked at yet."""
    REBUILD = "rebuild"
    """Something is lost or in doubt: close, settle what is left, go on at a new epoch with balances
    from Postgres.
    """
    LEAVE = "leave"
    """Another Postgres was promoted since, and the shard has been seen with that one: this one must
    touch nothing.
    """
    REFUSE = "refuse"
    """The data was written by a release that this one does not understand: touching it could
    destroy it.
    """


@dataclass(frozen=True, slots=True)
class ShardView:
    """The shard in Redis: meta and the last id that its stream ever gave, read in one transaction.

    last_id is None when there is no stream. run_id is the server's own, replid that of its
    replication: a server that was another one's replica in between has another one, and so has a
    primary that began its own, when its first replica came.
    """

    run_id: str
    meta: Mapping[str, str]
    last_id: tuple[int, int] | None
    replid: str = ""
    settled_entry: str | None = None
    """The fingerprint of what the stream has under the id of the watermark; None: nothing."""
    began_history: bool = False
    """Whether it is a primary whose replication history continues no other one's."""

    @property
    def epoch(self) -> int | None:
        """The epoch that Redis has, or had before it was fenced; None when it does not say."""
        for name in ("epoch", "fenced_epoch"):
            if self.meta.get(name, "").isdigit():
                return int(self.meta[name])
        return None

    @property
    def is_approved_server(self) -> bool:
        """Whether this server is the one that its data says was approved, without a time as a
        replica in between.
        """
        replid = self.meta.get("replid", "")
        same_history = not replid or not self.replid or replid == self.replid
        return self.run_id == self.meta.get("run_id") and (same_history or self.began_history)

    @property
    def start(self) -> int:
        """The number of the server start that its data says was approved last."""
        text = self.meta.get("start", "")
        return int(text) if text.isdigit() and len(text) <= _START_DIGITS_MAX else 0

    @property
    def missing(self) -> int:
        """How many acknowledged calls this server lacks, as clients have found."""
        text = self.meta.get("missing", "")
        return int(text) if text.isdigit() else 0

    @property
    def departures(self) -> int:
        """How often an organisation was closed for a move, as its data says."""
        text = self.meta.get("departures", "")
        return int(text) if text.isdigit() else 0

    @property
    def ledger(self) -> Ledger | None:
        """The Postgres that this shard has last been seen with."""
        return Ledger.parse(self.meta.get("ledger", ""))

    @property
    def postgres(self) -> list[str]:
        """The histories of Postgres that this shard was closed for, or has been seen with."""
        seen = [self.meta.get("postgres", ""), self.ledger.history if self.ledger else ""]
        return [one for one in seen if one]

    @property
    def seq(self) -> int | None:
        """The last number that Redis gave to an event, None when it does not say."""
        text = self.meta.get("seq", "")
        return int(text) if text.isdigit() else None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why in words."""

    action: Action
    reason: str


def judge(mark: Mark, seen: ShardView, shards: int) -> Verdict:
    """Compare. Whatever is not plainly whole is rebuilt: a wrong rebuild costs a pause, a wrong
    trust costs credits.
    """
    later = superseding(mark, seen)
    if mark.ledger is not None and later is not None:
        return Verdict(Action.LEAVE, str(superseded(mark.ledger.history, later)))
    if not seen.meta:
        if mark.run_id is None and mark.seq == 0 and seen.last_id is None:
            return Verdict(Action.OPEN, "never used")
        return Verdict(Action.REBUILD, "Redis has no meta for this shard: its data is gone")
    if seen.meta.get("format", DATA_FORMAT) != DATA_FORMAT:
        found = seen.meta["format"]
        return Verdict(Action.REFUSE, f"data format {found}, this release reads {DATA_FORMAT}")
    if mark.run_id is None:
        # The server is written down before it is opened, so no open of ours can have made this.
        return Verdict(Action.REBUILD, "Redis has data that this database has never seen")
    doubt = _doubt(mark, seen, shards)
    if doubt:
        return Verdict(Action.REBUILD, doubt)
    if not seen.is_approved_server or seen.run_id != mark.run_id:
        return Verdict(Action.APPROVE, f"whole, on server {seen.run_id}")
    return Verdict(Action.NOTHING, "whole")


def superseding(mark: Mark, seen: ShardView) -> str | None:
    """The history of a Postgres that was promoted after this one and that the shard has been seen
    with, None without one.
    """
    return None if mark.ledger is None else later_history(mark.ledger.history, seen.postgres)


def knows(mark: Mark, seen: ShardView) -> bool:
    """Whether this Redis has been at work with this Postgres, however far either has gone back: on
    the server that Postgres has approved last, or with a Postgres of the same system.
    """
    if not seen.meta:
        return False
    if mark.run_id is not None and mark.run_id in (seen.run_id, seen.meta.get("run_id")):
        return True
    ours = None if mark.ledger is None else mark.ledger.history.partition("/")[0]
    return any(history.partition("/")[0] == ours for history in seen.postgres)


def has_been_used(mark: Mark) -> bool:
    """Whether a Redis was ever at work with this Postgres."""
    return mark.run_id is not None or mark.epoch > 1 or mark.seq > 0


def is_whole(mark: Mark, seen: ShardView) -> bool:
    """Whether Redis has lost nothing that it ever answered, so that what its open holds have
    reported may be charged: the approved server in the same life, with everything that Postgres has
    settled. A Postgres that went back does not speak against it: which server was approved last it
    may not know.
    """
    epoch, seq = seen.epoch, seen.seq
    if epoch is None or seq is None or seen.missing or not seen.is_approved_server:
        return False
    if seen.meta.get("epoch") == "fenced":
        return seen.meta.get("fenced_whole") == "1"
    if seen.run_id != mark.run_id and not _went_back(mark, seen):
        return False
    if (epoch, seq) < (mark.epoch, mark.seq) or seen.departures < mark.departures:
        return False
    if has_diverged(mark, seen):
        return False
    if seq == 0:
        return seen.last_id is None or seen.last_id[0] < epoch
    return seen.last_id == (epoch, seq)


def has_diverged(mark: Mark, seen: ShardView) -> bool:
    """Whether the stream has something else under the id of the last settled entry. What it has
    after that, and some of what it has before, is of another history than the settled one.
    """
    entry = mark.settled_fingerprint
    if entry is None or seen.epoch != mark.epoch or seen.settled_entry == entry:
        return False
    return seen.last_id is not None and seen.last_id[0] == mark.epoch


def is_of_another_history(mark: Mark, seen: ShardView) -> bool:
    """Whether what Redis has after the settled events is not what was answered last: its data has
    diverged, or goes back to a server before the one that was approved last. (A Postgres that went
    back does not know which one that was.)
    """
    approved = mark.run_id in (None, seen.run_id, seen.meta.get("run_id"))
    passed_over = not approved and seen.epoch == mark.epoch and not _went_back(mark, seen)
    return has_diverged(mark, seen) or passed_over


def _went_back(mark: Mark, seen: ShardView) -> bool:
    """Whether this Postgres lacks something that the shard has seen it have, or is another one."""
    before = seen.ledger
    return bool(mark.ledger and before and not mark.ledger.continues(before))


def _doubt(mark: Mark, seen: ShardView, shards: int) -> str | None:
    """The first thing that does not fit, or None."""
    epoch, seq = seen.meta.get("epoch", ""), seen.seq
    if epoch == "fenced":
        return f"it was closed: {seen.meta.get('fenced_reason', 'no reason given')}"
    if not epoch.isdigit() or seq is None:
        return "meta is damaged"
    if int(epoch) != mark.epoch:
        return f"Redis is at epoch {epoch}, Postgres at {mark.epoch}"
    if seen.meta.get("shards") != str(shards):
        return f"Redis was opened for {seen.meta.get('shards')} shards, Postgres has {shards}"
    if _went_back(mark, seen):
        return f"Postgres went back or is another one: {mark.ledger}, it was {seen.ledger}"
    if seen.missing:
        return f"Redis has lost {seen.missing} calls that it had acknowledged to a client"
    if seen.departures < mark.departures:
        # An organisation that has left would be open here again.
        return f"Redis went back in time: it lacks {mark.departures - seen.departures} departures"
    if seq < mark.seq:
        return f"Redis went back in time: it is at event {seq}, Postgres has settled {mark.seq}"
    if has_diverged(mark, seen):
        return (
            f"Redis went back in time and on: it has {seen.settled_entry or 'nothing'},"
            f" Postgres has settled {mark.settled_fingerprint}"
        )
    last = seen.last_id
    if seq == 0:
        if last is not None and last[0] >= mark.epoch:
            return f"the stream is at {last[0]}-{last[1]}, meta says that nothing was charged yet"
    elif last != (mark.epoch, seq):
        at = "missing" if last is None else f"at {last[0]}-{last[1]}"
        return f"the stream is {at}, meta says {mark.epoch}-{seq}"
    # Numbers alone do not tell a stale replica, or an old primary that comes back: since the one
    # that was approved last began its life, theirs may stand for other events.
    data = seen.meta.get("run_id")
    if mark.run_id not in (seen.run_id, data):
        return f"the data goes back to a server ({data}) before the approved one ({mark.run_id})"
    return None
