"""Compares what callers were told with what the ledger says (I14, and I8 from the answers)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from chaos.embedded import CANCELLED
from chaos.history import Attempt
from chaos.scene import Key, Loss

ENDS: Final = frozenset({"commit", "release", "charge", "deduct", "complete"})
GIVEN_BACK_S: Final = 15.0
"""What a reserve has taken whose caller has left is given back before a Redis that answers has said
for so long that it is open.
"""
HOLD_MAX_S: Final = 6.0
"""A hold of a run has ended so long after its last heartbeat, by its deadline and the sweep, unless
a fault kept the sweep from it.
"""
Times = tuple[float, float]


@dataclass(slots=True)
class Judgement:
    """violations in words; `lost`: requests whose acknowledged charge is gone, each allowed by a
    fault that may lose; `counts`: what happened sometimes.
    """

    violations: list[str] = field(default_factory=list)
    lost: int = 0
    lost_millicredits: int = 0
    acknowledged: int = 0
    unknown: int = 0
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))


def judge(
    attempts: list[Attempt],
    ledger: Mapping[Key, int],
    losses: list[Loss],
    faults: Iterable[Times] = (),
) -> Judgement:
    """`ledger`: what each request was charged in all, millicredits; `faults`: from when to when
    each of the run lasted.
    """
    found = Judgement()
    doubtful = _doubtful(losses, faults)
    by_request: dict[Key, list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_request[attempt.key].append(attempt)
        _note(found, attempt)
    for key in ledger.keys() - by_request.keys():
        found.violations.append(f"{_name(key)} is charged {ledger[key]}, and nobody asked for it")
    for key, of_request in by_request.items():
        _judge_request(found, key, of_request, ledger.get(key), losses, doubtful)
    found.counts = dict(found.counts)
    return found


def _judge_request(
    found: Judgement,
    key: Key,
    attempts: list[Attempt],
    charged: int | None,
    losses: list[Loss],
    doubtful: list[Times],
) -> None:
    _note_healed(found, attempts)
    _judge_left(found, key, attempts, losses)
    # What could be charged at all: every amount that an attempt carried which may have got through.
    possible = {
        attempt.amount
        for attempt in attempts
        if attempt.op in ("commit", "charge", "touch", "deduct")
        and (attempt.outcome in ("ok", "unknown") or attempt.code == "REPLAYED")
    }
    told = [attempt for attempt in attempts if attempt.charged is not None]
    possible |= {attempt.charged or 0 for attempt in told if attempt.op == "complete"}
    if told:
        found.acknowledged += 1
    elif any(attempt.outcome == "unknown" for attempt in attempts):
        found.unknown += 1
    actual = charged or 0
    # What an answer costs that no caller has seen the end of is the upstream's to say.
    unsaid = any(attempt.op == "complete" and attempt.outcome == "unknown" for attempt in attempts)
    if actual and actual not in possible and not unsaid:
        found.violations.append(
            f"{_name(key)} is charged {actual}, but only {sorted(possible)} was ever sent"
        )
        return
    most = max((attempt.charged or 0 for attempt in told), default=None)
    if most is not None and actual > most:
        # No loss explains it: what is lost makes a request cost less, never more than was told.
        found.violations.append(f"invented: {_name(key)} was told {most}, the ledger has {actual}")
        return
    if not any(attempt.op in ENDS and _may_have_ended(attempt) for attempt in attempts):
        _judge_forgotten(found, key, attempts, actual, doubtful)
    wrong = [attempt for attempt in told if attempt.charged != actual]
    if not wrong:
        return
    if all(_may_be_lost(attempt, actual, losses) for attempt in wrong):
        found.lost += 1
        found.lost_millicredits += max(attempt.charged or 0 for attempt in wrong) - actual
        return
    worst = next(attempt for attempt in wrong if not _may_be_lost(attempt, actual, losses))
    found.violations.append(
        f"{_name(key)}: {worst.op} was told {worst.charged} charged, the ledger has {charged}"
    )


def _judge_left(found: Judgement, key: Key, attempts: list[Attempt], losses: list[Loss]) -> None:
    """A reserve whose caller has left is given back, and its id may be reserved anew. One whose end
    was lost may be open again.
    """
    reserves = [attempt for attempt in attempts if attempt.op == "reserve"]
    left = [attempt for attempt in reserves if attempt.code == CANCELLED]
    if not left:
        return
    since = max(attempt.answered_at for attempt in reserves if attempt.code != "REPLAYED")
    asked_at = max(attempt.answered_at for attempt in reserves)
    found.counts["left, given back"] += any(attempt.outcome == "ok" for attempt in reserves)
    lost = any(
        loss.of == "redis" and loss.since <= asked_at and loss.until >= left[0].at
        for loss in losses
    )
    if asked_at - since > GIVEN_BACK_S and not lost:
        took = f"{asked_at - since:.0f} s"
        found.violations.append(f"{_name(key)} was left, and its hold was open for {took} more")


def _may_have_ended(attempt: Attempt) -> bool:
    return attempt.outcome in ("ok", "unknown") or attempt.code == "REPLAYED"


def _judge_forgotten(
    found: Judgement, key: Key, attempts: list[Attempt], actual: int, doubtful: list[Times]
) -> None:
    """A hold that nobody ended: its last heartbeat is charged. After a start of the server that may
    have lost something only what was reported since is.
    """
    reports = [attempt for attempt in attempts if attempt.op == "touch" and attempt.outcome == "ok"]
    kind = "none" if not reports else "charged"
    if reports and actual < max(report.amount for report in reports):
        kind = "lost"
        missing = [report for report in reports if report.amount > actual]
        if not all(_lies_in(report, doubtful) for report in missing):
            found.violations.append(
                f"{_name(key)} reported {missing[-1].amount} and was left, the ledger has {actual}"
            )
    found.counts[f"left, heartbeat {kind}"] += 1


def _doubtful(losses: list[Loss], faults: Iterable[Times]) -> list[Times]:
    """When what was reported may be gone: while a loss lasted, and as long before it as a hold that
    was reported then may have been open. A sweep waits for Postgres and for a settler, so the time
    of a fault does not count.
    """
    latest_first = sorted(faults, key=lambda times: times[1], reverse=True)
    found = []
    for loss in losses:
        if loss.of not in ("redis", "start"):
            continue
        earliest = loss.since - HOLD_MAX_S
        for began, ended in latest_first:
            if earliest < ended and began < loss.since:
                earliest -= min(ended, loss.since) - began
        found.append((earliest, loss.until))
    return found


def _lies_in(report: Attempt, doubtful: list[Times]) -> bool:
    return any(
        report.at <= until and report.answered_at >= earliest for earliest, until in doubtful
    )


def _may_be_lost(attempt: Attempt, actual: int, losses: list[Loss]) -> bool:
    """Whether a fault explains it: the answer was in its window, and of what had been settled
    before nothing is missing. (Of a commit after an expiry a part may have been settled.)
    """
    of = "postgres" if attempt.op == "deduct" else "redis"
    return any(
        loss.of == of
        and (loss.orgs is None or attempt.org_id in loss.orgs)
        and attempt.answered_at >= loss.since
        and attempt.at <= loss.until
        and loss.settled.get(attempt.key, 0) <= actual
        for loss in losses
    )


def _note(found: Judgement, attempt: Attempt) -> None:
    """Count what happened, and judge the answer by itself."""
    counts, receipt = found.counts, attempt.receipt or {}
    counts[f"{attempt.op} {attempt.outcome}"] += 1
    counts["replayed"] += attempt.code == "REPLAYED"
    if attempt.outcome == "ok":
        counts["replayed"] += bool(receipt.get("replayed"))
        counts["late"] += bool(receipt.get("late"))
        # A reserve that a sidecar repeats by itself is told the balance of that later moment, so
        # only charges, whose repeats are marked, can be judged by it.
        fresh = attempt.op == "charge" and not receipt["replayed"]
        if fresh and receipt["available_millicredits"] < 0:
            found.violations.append(
                f"I8 {_name(attempt.key)}: {attempt.op} left {receipt['available_millicredits']}"
            )
    if attempt.code == "ACCOUNT_NOT_FOUND":
        found.violations.append(
            f"{_name(attempt.key)}: {attempt.user_id} has credits, and was told that they have none"
        )
    counts["fenced"] += attempt.code == "FENCED"
    counts["no credits"] += attempt.code in ("INSUFFICIENT_CREDITS", "HOLDS_IN_THE_WAY")
    counts["out of memory"] += attempt.code == "OUT_OF_MEMORY"


def _note_healed(found: Judgement, attempts: list[Attempt]) -> None:
    """An outcome that was unknown and became known by asking again under the same id."""
    unknown: set[str] = set()
    for attempt in attempts:
        if attempt.outcome == "unknown":
            unknown.add(attempt.op)
        elif attempt.op in unknown and (attempt.outcome == "ok" or attempt.code == "REPLAYED"):
            found.counts["healed"] += 1
            unknown.discard(attempt.op)


def _name(key: Key) -> str:
    return f"{key[0]} {key[1]}"
