"""Compares what admins were told with what the books say (I14 for what is administered)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from chaos.history import Line
from chaos.scene import Loss

EXPECTED: Final = frozenset({200, 400, 404})
"""Definite answers that an admin may get. 409 among others would say that a key was another's."""
LATER: Final = {"add": "active", "remove": "removed"}


@dataclass(slots=True)
class Told:
    """All attempts at one thing: when it was asked for, and what came back when."""

    op: str
    on: str
    amount: int
    asked: list[float] = field(default_factory=list)
    answers: list[tuple[str, float]] = field(default_factory=list)

    @property
    def acknowledged(self) -> list[float]:
        return [at for outcome, at in self.answers if outcome == "ok"]

    @property
    def unknown(self) -> bool:
        """Whether some attempt had no definite answer."""
        return len(self.answers) < len(self.asked) or any(
            outcome == "unknown" for outcome, _ in self.answers
        )

    def may_be_lost(self, losses: Iterable[Loss]) -> bool:
        """Whether Postgres was put back to a copy that may lack it: every acknowledgement came
        after the copy was made, of an attempt before it was put back.
        """
        return any(
            loss.of == "postgres"
            and min(self.asked) <= loss.until
            and all(at >= loss.since for at in self.acknowledged)
            for loss in losses
        )


@dataclass(slots=True)
class Administered:
    """violations in words; counts of what happened; `bought`: millicredits by organisation, of the
    purchases that the books have.
    """

    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    bought: Counter[str] = field(default_factory=Counter)


def judge_admin(
    lines: Iterable[Line],
    effects: Mapping[str, int],
    members: Mapping[str, str],
    losses: list[Loss],
) -> Administered:
    """`effects`: how often the books have each effect; `members`: status by account."""
    found = Administered()
    told, memberships = _read(lines, found)
    for effect in effects.keys() - told.keys():
        found.violations.append(f"I14 {effect} took effect, and nobody asked for it")
    for effect, one in told.items():
        count = effects.get(effect, 0)
        if one.op == "buy":
            found.bought[one.on] += one.amount * count
        ended = "ok" if one.acknowledged else "not known" if one.unknown else "refused"
        found.counts[f"{one.op} {ended}"] += 1
        if count > 1:
            found.violations.append(f"I14 {effect} took effect {count} times")
        elif count == 1 and not one.acknowledged and not one.unknown:
            found.violations.append(f"I14 {effect} was refused and took effect")
        elif count == 0 and one.acknowledged:
            if one.may_be_lost(losses):
                found.counts["administered and lost"] += 1
            else:
                found.violations.append(f"I14 {effect} was acknowledged and did not take effect")
    for account, attempts in memberships.items():
        found.counts["member removed"] += sum(
            one.op == "remove" and bool(one.acknowledged) for one in attempts
        )
        possible = _possible(attempts, losses)
        status = members.get(account, "")
        if status not in possible:
            found.violations.append(f"I14 {account} is {status!r}, told {sorted(possible)}")
    return found


def _read(
    lines: Iterable[Line], found: Administered
) -> tuple[dict[str, Told], dict[str, list[Told]]]:
    """By effect, and the attempts at each membership in their order. Judges each answer."""
    told: dict[str, Told] = {}
    memberships: dict[str, list[Told]] = {}
    by_attempt: dict[str, Told] = {}
    for line in lines:
        if line["what"] == "invoke":
            one = Told(line["op"], line["on"], line["amount"])
            if line["op"] in LATER:
                memberships.setdefault(line["on"], []).append(one)
            else:
                one = told.setdefault(line["effect"], one)
            one.asked.append(line["at"])
            by_attempt[line["attempt"]] = one
            continue
        one = by_attempt[line["attempt"]]
        one.answers.append((line["outcome"], line["at"]))
        found.counts["admin attempts"] += 1
        if line["outcome"] in ("ok", "refused") and line["status"] not in EXPECTED:
            found.violations.append(f"I14 {one.op} of {one.on} was answered {line['status']}")
    return told, memberships


def _possible(attempts: list[Told], losses: list[Loss]) -> set[str]:
    """What a membership may be, when one attempt came after the other. An attempt whose outcome is
    unknown may take effect at any later time: nothing but its caller's patience ended it.
    """
    possible: set[str] = set()
    late: set[str] = set()
    for one in attempts:
        later = LATER[one.op]
        if one.unknown:
            late.add(later)
        elif any(outcome in ("ok", "refused") for outcome, _ in one.answers):
            # A removal that is refused finds nobody who could be removed.
            possible = {later} | (possible if one.may_be_lost(losses) else set())
    return possible | late
