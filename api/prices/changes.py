"""Compares an old and a new price list, and finds what is obviously wrong with the new one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from taximeter.meter.pricing.identity import identify
from taximeter.meter.pricing.lists import PriceLists
from taximeter.meter.pricing.published import Listed
from taximeter.meter.pricing.sheet import Rates

FACTOR_MAX: Final = 10
"""A price that is so many times the old one, or so small a part of it, is taken for a mistake."""
REMOVED_SHARE_MAX: Final = Decimal("0.1")
"""As is a list that has no price for more than this part of the models that have one."""
CHECKS: Final[Mapping[str, str]] = {
    "removed": "more than a tenth of the models that have a price would have none",
    "free": "a model that costs something would cost nothing",
    "factor": f"a price would be more than {FACTOR_MAX} times the old one, or less than a "
    f"{FACTOR_MAX}th of it",
    "older": "the new prices are of an earlier day",
    "same": "the list is the one that is in force",
}

Figures = dict[str, Decimal]
"""What is priced, as `input` or `priority output above 200000` -> dollars."""


class Step(NamedTuple):
    """One figure of one model, before and after; None where there is none."""

    what: str
    old: Decimal | None
    new: Decimal | None

    @property
    def factor(self) -> Decimal | None:
        """How many times the old one the new one is; None where one is missing or 0."""
        return self.new / self.old if self.old and self.new else None


class Problem(NamedTuple):
    """Something that is obviously wrong: by which check, and of which model, if of one."""

    check: str
    model: str
    text: str


@dataclass(slots=True)
class Changes:
    """What a new list changes, by model (host/name). `same`: how many models keep every figure;
    `paid`: those that change and still cost something.
    """

    added: dict[str, Figures] = field(default_factory=dict)
    removed: dict[str, Figures] = field(default_factory=dict)
    changed: dict[str, list[Step]] = field(default_factory=dict)
    same: int = 0
    paid: set[str] = field(default_factory=set)

    @property
    def priced_before(self) -> int:
        """Models that the old list has a price for."""
        return len(self.removed) + len(self.changed) + self.same

    def as_dict(self) -> dict[str, Any]:
        """For JSON: prices as text, exactly."""
        return {
            "added": {name: _as_text(one) for name, one in self.added.items()},
            "removed": {name: _as_text(one) for name, one in self.removed.items()},
            "changed": {
                name: [
                    {
                        "what": step.what,
                        "old": _plain(step.old),
                        "new": _plain(step.new),
                        "factor": None if step.factor is None else _short(step.factor),
                    }
                    for step in steps
                ]
                for name, steps in self.changed.items()
            },
            "same": self.same,
        }


def changes_between(old: PriceLists, new: PriceLists, at: datetime) -> Changes:
    """Compare every model of both, as they are at that moment: by what it is, once, however many
    names it stands under.
    """
    found = Changes()
    seen = set()
    for written in sorted({*old.names(), *new.names()}):
        of = identify(written)
        both = [lists.find(written, of) for lists in (old, new)]
        name = next((one.identity for one in reversed(both) if one is not None), written)
        if name in seen:
            continue
        seen.add(name)
        before, after = (_figures(one, at) for one in both)
        if not before and not after:
            continue
        if not before:
            found.added[name] = after
        elif not after:
            found.removed[name] = before
        elif before == after:
            found.same += 1
        else:
            found.changed[name] = [
                Step(what, before.get(what), after.get(what))
                for what in dict.fromkeys((*before, *after))
                if before.get(what) != after.get(what)
            ]
            if any(after.values()):
                found.paid.add(name)
    return found


def problems_of(
    changes: Changes, *, dated: date, in_force_dated: date | None, is_same: bool
) -> list[Problem]:
    """What is obviously wrong, the whole list's faults first."""
    found = []
    if is_same:
        found.append(Problem("same", "", CHECKS["same"]))
    if in_force_dated is not None and dated < in_force_dated:
        text = f"the new prices are of {dated}, those in force of {in_force_dated}"
        found.append(Problem("older", "", text))
    if len(changes.removed) > REMOVED_SHARE_MAX * changes.priced_before:
        text = (
            f"{len(changes.removed)} of {changes.priced_before} models that have a price would "
            "have none"
        )
        found.append(Problem("removed", "", text))
    for model, steps in changes.changed.items():
        if model not in changes.paid and any(step.old for step in steps) and _is_free_now(steps):
            found.append(Problem("free", model, f"{model} would cost nothing"))
            continue
        for step in steps:
            factor = Decimal(0) if step.old and step.new == 0 else step.factor
            if factor is not None and not Decimal(1) / FACTOR_MAX <= factor <= FACTOR_MAX:
                text = f"{model}: {step.what} {_plain(step.old)} -> {_plain(step.new)} dollars"
                found.append(Problem("factor", model, text))
                break
    return found


def lines_of(changes: Changes) -> Iterator[str]:
    """Old and new side by side, for people."""
    for title, models in (("added", changes.added), ("removed", changes.removed)):
        for name, figures in models.items():
            shown = ", ".join(f"{what} {_plain(price)}" for what, price in figures.items())
            yield f"  {title:8} {name}: {shown}"
    for name, steps in changes.changed.items():
        for step in steps:
            old, new = (_plain(one) or "-" for one in (step.old, step.new))
            factor = "" if step.factor is None else f"x{_short(step.factor)}"
            yield f"  {'changed':8} {name}: {step.what:20} {old:>10} -> {new:>10}  {factor}"


def _is_free_now(steps: list[Step]) -> bool:
    """Whether all that changes costs nothing after, and some of it is left."""
    return all(not step.new for step in steps) and any(step.new == 0 for step in steps)


def _figures(listed: Listed | None, at: datetime) -> Figures:
    if listed is None:
        return {}
    found: Figures = {}
    now = listed.place(at)
    for place, (_, sheet) in enumerate(listed.sheets):
        when = "" if place == now else f" (other times {place})"
        for mode, rates in (("", sheet.rates), *sheet.modes.items()):
            found |= _of_rates(rates, f"{mode} " if mode else "", when)
    return found


def _of_rates(rates: Rates, before: str, after: str) -> Figures:
    found: Figures = {}
    for kind, rate in rates.items():
        found[f"{before}{kind}{after}"] = rate.base
        for start, price in rate.tiers:
            found[f"{before}{kind} above {start}{after}"] = price
    return found


def _as_text(figures: Figures) -> dict[str, str | None]:
    return {what: _plain(price) for what, price in figures.items()}


def _plain(price: Decimal | None) -> str | None:
    return None if price is None else f"{price.normalize():f}"


def _short(factor: Decimal) -> str:
    return f"{factor:.3g}" if factor < 100 else f"{factor:.0f}"
