"""Bounds a Meter: every queue, batch, time-out and retry has its bound here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from taximeter.meter.wire.errors import InvalidRequest
from taximeter.meter.wire.limits import BALANCE_MAX, OPERATIONS_PER_CALL_MAX
from taximeter.meter.wire.waits import Wait, Waits

Durability = Literal["none", "everysec", "always"]
"""What an operator asks of the server: nothing, an AOF, or an AOF with an fsync before answers."""


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """Bounds of one Meter.

    A refusal is quick (`take_timeout_s`), a charge is patient (`resolve_timeout_s`): a reserve that
    cannot be decided costs a request, a commit that is given up costs money until its hold expires.
    """

    key_prefix: str = "tm"
    batch_max: int = 250
    """Most operations of one write to a server."""
    lanes_per_server: int = 2
    """Most writes in flight to a server, each with calls of several shards: one connection each."""
    queue_max: int = 10_000
    """Most waiting operations per shard; commits and releases are let in up to twice as many. When
    it is full, accounts and organisations with few of their own among them are still let in.
    """
    account_queue_max: int = 10_000
    """Most operations of one account that wait beyond the next calls; more are refused, commits and
    releases beyond twice as many.
    """
    take_timeout_s: float = 2.0
    """How long reserve, charge and touch are tried before an error."""
    resolve_timeout_s: float = 10.0
    """How long commit and release are tried before an error."""
    call_timeout_s: float = 1.0
    """How long one script call may take before its connection is given up."""
    retry_pause_s: float = 0.02
    retry_pause_max_s: float = 0.25
    close_timeout_s: float = 10.0
    """How long `aclose` waits for what is still queued."""
    reserve_wait: Wait = "none"
    """What a reserve waits for beyond Redis itself: losing one costs an over-admission."""
    commit_wait: Wait = "none"
    """The same for everything else: losing a commit costs what it charged."""
    wait_replicas: int = 1
    """How many replicas the waits that name replicas want."""
    overdraft_report: int = 100_000
    """Millicredits below zero from which on every operation that leaves an account there is a
    line in the log.
    """
    durability: Durability = "none"
    """What the operator says of the server (TAXIMETER_DURABILITY): believed by `Meter.promise`
    where the Redis user may not read it.
    """
    wait_timeout_s: float = 1.5
    """How long what was done waits to be confirmed, before it ends as NotConfirmed. With
    `appendfsync everysec` a disk is waited for up to a second.
    """

    def __post_init__(self) -> None:
        for name, low, high in (
            ("batch_max", 1, OPERATIONS_PER_CALL_MAX),
            ("lanes_per_server", 1, 64),
            ("queue_max", 1, 1_000_000),
            ("account_queue_max", 1, 1_000_000),
            ("take_timeout_s", 0.01, 3600),
            ("resolve_timeout_s", 0.01, 3600),
            ("call_timeout_s", 0.01, 600),
            ("retry_pause_s", 0.001, 60),
            ("retry_pause_max_s", 0.001, 60),
            ("close_timeout_s", 0, 3600),
            ("overdraft_report", 0, BALANCE_MAX),
            ("wait_replicas", 1, 16),
            ("wait_timeout_s", 0.001, 600),
        ):
            if not low <= getattr(self, name) <= high:
                raise InvalidRequest(name, f"{low} to {high}")
        if not self.key_prefix or any(mark in self.key_prefix for mark in "{}: \t\n"):
            raise InvalidRequest("key_prefix", "text without braces, colons or spaces")
        if self.durability not in get_args(Durability):
            raise InvalidRequest("durability", f"one of {', '.join(get_args(Durability))}")
        for name in ("reserve_wait", "commit_wait"):
            if getattr(self, name) not in get_args(Wait):
                raise InvalidRequest(name, f"one of {', '.join(get_args(Wait))}")

    @property
    def waits(self) -> Waits | None:
        """What to wait for, or None when nothing waits."""
        if self.reserve_wait == self.commit_wait == "none":
            return None
        return Waits(self.reserve_wait, self.commit_wait, self.wait_replicas, self.wait_timeout_s)
