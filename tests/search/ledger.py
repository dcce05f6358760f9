"""Postgres in memory, as far as one account of one organisation needs it.

What is decided in Python is the settler's own: how a stream is read (`Run`), which request is
charged once (`ChargedRequests`), what another history has beside the settled one (`still_due`).
What SQL decides stands here in a line each.
"""

from __future__ import annotations

from typing import NamedTuple

from search.store import Store
from taximeter.meter.wire.keys import ShardKeys
from taximeter.settler.books.fingerprint import fingerprint
from taximeter.settler.books.postgres_position import Ledger as Position
from taximeter.settler.books.watermarks import Mark
from taximeter.settler.settling.charged_requests import ChargedRequests
from taximeter.settler.settling.displaced import Displaced, still_due
from taximeter.settler.settling.events import BadLine, Event
from taximeter.settler.settling.stream import Fields, Run

Claim = tuple[str, int]
"""Request id and phase."""


class Charged(NamedTuple):
    user_id: str
    amount: int
    by_expiry: bool
    late: bool


class Said(NamedTuple):
    """Up to which entry an account was when Redis was asked, and at which epoch, on which server
    and at which of its starts that was.
    """

    applied: int
    epoch: int
    run_id: int
    starts: int


class Books:
    """The allocation, its entries, what was charged and how far the shard is settled. A copy shares
    nothing that changes.
    """

    __slots__ = (
        "allocated", "charged", "dead", "entries", "epoch", "exposure", "hint", "lost", "position",
        "run_id", "seq", "settled_entry", "starts", "used",
    )  # fmt: skip

    def __init__(self, allocated: int) -> None:
        self.allocated = allocated
        self.used = 0
        self.exposure = 0
        self.entries: list[tuple[int, str]] = []
        self.charged: dict[Claim, Charged] = {}
        self.dead: list[bytes] = []
        self.settled_entry: str | None = None
        self.lost = 0
        self.epoch, self.seq, self.run_id, self.starts = 1, 0, 1, 1
        self.position = self.hint = 1
        self._entry(allocated)

    def copy(self) -> Books:
        made = Books.__new__(Books)
        for name in self.__slots__:
            setattr(made, name, getattr(self, name))
        made.entries, made.dead = list(self.entries), list(self.dead)
        made.charged = dict(self.charged)
        return made

    def frozen(self) -> tuple[object, ...]:
        figures = (self.allocated, self.used, self.exposure, self.lost, self.epoch, self.seq)
        charged = tuple(sorted(self.charged.items()))
        entries = tuple(self.entries)
        server = (self.run_id, self.starts, self.hint)
        return (*figures, *server, entries, charged, tuple(self.dead), self.settled_entry)

    @property
    def free(self) -> int:
        return self.allocated - self.used

    def mark(self) -> Mark:
        """The shard as the guardian reads it."""
        position = Position("1/1", self.position, self.seq)
        run_id = f"{self.run_id:040x}"
        entry, starts = self.settled_entry, self.starts
        return Mark(0, self.epoch, self.seq, run_id, 1, position, entry, starts)

    def approve(self, run_id: int, known: int) -> int:
        """`approve_server`: a start of a server, whose number none has had."""
        self.run_id, self.starts = run_id, max(self.starts, known) + 1
        return self.starts

    def said(self, applied: int) -> Said:
        """What a relay knows that has begun now, when it was answered."""
        return Said(applied, self.epoch, self.run_id, self.starts)

    def move_hint(self, said: Said) -> None:
        """`move_hints`: only while the shard is as it was asked."""
        if said == self.said(said.applied):
            self.hint = min(said.applied, len(self.entries))

    def deduct(self, request_id: str, amount: int) -> bool:
        """`deduct_credits`: what the settler has last seen open is left alone."""
        if self.free - self.exposure < amount or (request_id, 0) in self.charged:
            return False
        self.charged[request_id, 0] = Charged("u", amount, False, False)
        self.used += amount
        self._entry(-amount)
        return True

    def unsettled(self, store: Store, keys: ShardKeys) -> int:
        """What the events after the watermark come to."""
        return sum(event.amount for event in self._run(store, keys).parse()[0])

    def settle(self, store: Store, keys: ShardKeys, closed: bool = False) -> bool:
        """Book what comes after the watermark; False when nothing does, or the stream is of another
        history. `settle_once`; `closed`: a guardian asks.
        """
        run = self._run(store, keys)
        if run.empty or self.found(store, keys) != self.mark().settled_fingerprint:
            return False
        approved = store.hashes.get(keys.meta, {}).get("run_id") in (None, self.mark().run_id)
        if not approved and not closed:
            return False
        self._write(run)
        return True

    def found(self, store: Store, keys: ShardKeys) -> str | None:
        """The fingerprint of what the stream has under the id of the last settled entry."""
        if self.mark().settled_fingerprint is None:
            return None
        at = f"{self.epoch}-{self.seq}"
        entries = _entries(store, keys, at, at)
        return fingerprint(*entries[0]) if entries else None

    def displace(self, store: Store, keys: ShardKeys) -> None:
        """Book what a stream of another history has beside. `settle_displaced`."""
        run, found = Run(self.epoch + 1, 0, 0), Displaced()
        booked: dict[tuple[str, str], dict[int, int]] = {}
        for (request, phase), one in self.charged.items():
            booked.setdefault(("org", request), {})[phase] = one.amount
        for _, fields in _entries(store, keys, f"{self.epoch}-0", f"{self.epoch}-{2**60}"):
            left = still_due(fields, booked, self.dead, found)
            if left is not None:
                last = run.last_seq + left[b"v1"].count(b"\n") + 1
                run.add(f"{run.epoch}-{last}".encode(), left)
        self.epoch, self.seq = run.epoch, 0
        self._write(run)
        self.settled_entry = None

    def ended(self, request: str) -> tuple[int, bool] | None:
        """What a request is charged in all, and whether by its expiry alone. `charged_in_all`."""
        charged = [one for (name, _), one in self.charged.items() if name == request]
        if not charged:
            return None
        return sum(one.amount for one in charged), all(one.by_expiry for one in charged)

    def expired(self) -> list[str]:
        """Requests whose holds have expired with something. `recent_expiries`: all are recent."""
        return sorted({name for (name, _), one in self.charged.items() if one.by_expiry})

    def _run(self, store: Store, keys: ShardKeys) -> Run:
        run = Run(self.epoch, self.seq, self.seq)
        after, last = f"({self.epoch}-{self.seq}", f"{self.epoch}-{2**60}"
        for at, fields in _entries(store, keys, after, last):
            run.add(at, fields)
        return run

    def lose(self, up_to: int) -> None:
        """Numbers of this epoch that nobody has an event for."""
        self.lost += up_to - self.seq
        self.seq = up_to
        self.position += 1

    def _write(self, run: Run) -> None:
        events, bad = run.parse()
        charged = ChargedRequests()
        for event in events:
            charged.add(event)
        for key in list(charged.events):
            before = self.charged.get((key[1], key[2]))
            if before is not None:
                charged.refuse(key, before.by_expiry, before.user_id, before.amount)
        # A refused commit may have become a rest, which is claimed in its turn.
        for key in list(charged.events):
            before = self.charged.get((key[1], key[2]))
            if before is not None:
                charged.refuse(key, before.by_expiry, before.user_id, before.amount)
        for key, event in charged.events.items():
            self._charge((key[1], key[2]), event)
            if event.seq in charged.paid_before:
                self._entry(charged.paid_before[event.seq])
        for line in bad + charged.bad:
            self._set_aside(line)
        self.lost += run.lost
        self.seq = run.last_seq
        self.settled_entry = run.fingerprint
        self.position += 1

    def _charge(self, claim: Claim, event: Event) -> None:
        late = event.flags != "-"
        self.charged[claim] = Charged(event.user_id, event.amount, event.kind == "expire", late)
        self.used += event.amount

    def _set_aside(self, line: BadLine) -> None:
        self.dead.append(line.line)
        if line.amount:
            self._entry(line.amount)

    def _entry(self, delta: int, hold: str = "") -> None:
        self.entries.append((delta, hold))
        self.position += 1


def _entries(store: Store, keys: ShardKeys, first: str, last: str) -> list[tuple[bytes, Fields]]:
    """Without their times, which are no part of what makes two stores equal."""
    return [
        (at.encode(), {b"v1": fields[fields.index("v1") + 1].encode()})
        for at, fields in store.call("XRANGE", keys.events, first, last)
    ]


def known(store: Store, keys: ShardKeys) -> tuple[int, int]:
    """The highest (epoch, seq) that Redis remembers. `last_known`."""
    epoch, fenced, seq = store.call("HMGET", keys.meta, "epoch", "fenced_epoch", "seq")
    at = int(epoch) if epoch and epoch.isdigit() else int(fenced or 0)
    last = store.streams.get(keys.events, ((0, 0), []))[0]
    return max((at, int(seq or 0)), last)
