"""Postgres in memory, as far as one account of one organisation needs it.

What is decided in Python is the settler's own: how a stream is read (`Run`), which request is
charged once (`Claims`). What SQL decides stands here in a line each.
"""

from __future__ import annotations

from typing import NamedTuple

from search.store import Store
from taximeter.meter.keys import ShardKeys
from taximeter.settler.claims import Claims
from taximeter.settler.events import BadLine, Event
from taximeter.settler.stream import Run
from taximeter.settler.verdict import Ledger as Position
from taximeter.settler.verdict import Mark

Claim = tuple[str, int]
"""Request id and phase."""


class Charged(NamedTuple):
    user_id: str
    amount: int
    by_expiry: bool
    late: bool


class Books:
    """The allocation, its entries, what was charged and how far the shard is settled. A copy shares
    nothing that changes.
    """

    __slots__ = (
        "allocated", "charged", "dead", "entries", "epoch", "exposure", "lost", "position",
        "run_id", "seq", "used",
    )  # fmt: skip

    def __init__(self, allocated: int) -> None:
        self.allocated = allocated
        self.used = 0
        self.exposure = 0
        self.entries: list[tuple[int, str]] = []
        self.charged: dict[Claim, Charged] = {}
        self.dead: list[str] = []
        self.lost = 0
        self.epoch, self.seq, self.run_id = 1, 0, 1
        self.position = 1
        self._entry(allocated)

    def copy(self) -> Books:
        made = Books.__new__(Books)
        for name in ("allocated", "used", "exposure", "lost", "epoch", "seq", "run_id", "position"):
            setattr(made, name, getattr(self, name))
        made.entries, made.dead = list(self.entries), list(self.dead)
        made.charged = dict(self.charged)
        return made

    def frozen(self) -> tuple[object, ...]:
        figures = (self.allocated, self.used, self.exposure, self.lost, self.epoch, self.seq)
        charged = tuple(sorted(self.charged.items()))
        return (*figures, self.run_id, tuple(self.entries), charged, len(self.dead))

    @property
    def free(self) -> int:
        return self.allocated - self.used

    def mark(self) -> Mark:
        """The shard as the guardian reads it."""
        position = Position("1/1", self.position, self.seq)
        return Mark(0, self.epoch, self.seq, f"{self.run_id:040x}", 1, position)

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

    def settle(self, store: Store, keys: ShardKeys) -> bool:
        """Book what comes after the watermark; False when nothing does. `settle_once`."""
        run = self._run(store, keys)
        if run.empty:
            return False
        self._write(run)
        return True

    def _run(self, store: Store, keys: ShardKeys) -> Run:
        run = Run(self.epoch, self.seq, self.seq)
        for at, fields in store.call(
            "XRANGE", keys.events, f"({self.epoch}-{self.seq}", f"{self.epoch}-{2**60}"
        ):
            pairs = zip(fields[::2], fields[1::2], strict=True)
            run.add(at.encode(), {name.encode(): value.encode() for name, value in pairs})
        return run

    def lose(self, up_to: int) -> None:
        """Numbers of this epoch that nobody has an event for."""
        self.lost += up_to - self.seq
        self.seq = up_to
        self.position += 1

    def _write(self, run: Run) -> None:
        events, bad = run.parse()
        claims = Claims()
        for event in events:
            claims.add(event)
        for key in list(claims.events):
            before = self.charged.get((key[1], key[2]))
            if before is not None:
                claims.refuse(key, before.by_expiry, before.user_id, before.amount)
        # A refused commit may have become a rest, which is claimed in its turn.
        for key in list(claims.events):
            before = self.charged.get((key[1], key[2]))
            if before is not None:
                claims.refuse(key, before.by_expiry, before.user_id, before.amount)
        for key, event in claims.events.items():
            self._charge((key[1], key[2]), event)
            if event.seq in claims.paid_before:
                self._entry(claims.paid_before[event.seq])
        for line in bad + claims.bad:
            self._set_aside(line)
        self.lost += run.lost
        self.seq = run.last_seq
        self.position += 1

    def _charge(self, claim: Claim, event: Event) -> None:
        late = event.flags != "-"
        self.charged[claim] = Charged(event.user_id, event.amount, event.kind == "expire", late)
        self.used += event.amount

    def _set_aside(self, line: BadLine) -> None:
        self.dead.append(line.reason)
        if line.amount:
            self._entry(line.amount)

    def _entry(self, delta: int, hold: str = "") -> None:
        self.entries.append((delta, hold))
        self.position += 1


def known(store: Store, keys: ShardKeys) -> tuple[int, int]:
    """The highest (epoch, seq) that Redis remembers. `last_known`."""
    epoch, fenced, seq = store.call("HMGET", keys.meta, "epoch", "fenced_epoch", "seq")
    at = int(epoch) if epoch and epoch.isdigit() else int(fenced or 0)
    last = store.streams.get(keys.events, ((0, 0), []))[0]
    return max((at, int(seq or 0)), last)
