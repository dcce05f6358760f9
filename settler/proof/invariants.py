"""Names the invariants that `check` proves, with their words and SQL queries."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Final

from taximeter.settler.books.named_sql import load_queries

VIOLATIONS_SHOWN_MAX: Final = 20

TITLES: Final = {
    "I1": "every live balance is what the books say",
    "I2": "used is the sum of usage, for allocations and pools",
    "I3": "what a pool has allocated is the sum of its active allocations",
    "I4": "every event is settled, set aside or still in the stream",
    "I5": "a request is charged once",
    "I6": "what is held is the sum of the open holds, which are counted, and none is overdue",
    "I7": "credits are conserved over everything",
    "I11": "entries reach the live balance once, in order and in time",
    "I13": "organisations are kept apart",
    "I14": "the audit log has no gap and no change",
    "I16": "what is sealed is as it was sealed",
}
FIRES: Final = {
    "I1": "something changed Redis past the scripts, Redis lost data and has not been rebuilt, or "
    "a script is wrong",
    "I4": "Redis lost data (see docs/runbook.md), or someone deleted entries of the stream or "
    "rows of the ledger",
    "I6": "something changed holds past the scripts, or no settler sweeps; beside a release that "
    "does not count open holds, the settler counts them anew within a minute",
    "I7": "a credit came from nowhere or went nowhere: look at the other invariants for where",
    "I11": "no settler relays, Postgres went back in time, or an account refuses its entries (see "
    "the settler's log)",
    "I13": "keys or rows were written past scripts and constraints",
    "I16": "rows that were sealed were changed, put in or taken out past the triggers",
}
BEGINNING: Final = "-infinity"
END: Final = "infinity"
_SINCE: Final = f"timestamptz '{BEGINNING}'"
_UNTIL: Final = f"timestamptz '{END}'"


@dataclass(slots=True)
class Invariant:
    """One proved thing. unjudged says what was looked at less exactly; unread what could not be
    looked at, so that this is not proved although nothing violates it.
    """

    name: str
    figures: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    fires: list[str] = field(default_factory=list)
    unjudged: str | None = None
    unread: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """What it says, in words."""
        return TITLES[self.name]

    @property
    def holds(self) -> bool:
        """True when nothing violates it."""
        return not self.violations

    def violate(self, violation: str, fires: str | None = None) -> None:
        """Note a violation; a bounded number of them is kept, and the reasons once each."""
        if len(self.violations) < VIOLATIONS_SHOWN_MAX:
            self.violations.append(violation)
        elif len(self.violations) == VIOLATIONS_SHOWN_MAX:
            self.violations.append("and more")
        reason = fires or FIRES.get(self.name)
        if reason and reason not in self.fires:
            self.fires.append(reason)


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment, and before another one; None: from the beginning, without an end."""

    since: datetime | None = None
    until: datetime | None = None

    @classmethod
    def of_days(cls, first: date, after: date) -> Span:
        """Days in UTC, without the last one."""
        return cls(datetime.combine(first, time(), UTC), datetime.combine(after, time(), UTC))

    @property
    def moments(self) -> tuple[str, str]:
        """As Postgres reads them."""
        return (
            BEGINNING if self.since is None else self.since.isoformat(),
            END if self.until is None else self.until.isoformat(),
        )

    @property
    def ends_a_day(self) -> bool:
        """Whether no day is cut by its end."""
        return self.until is None or self.until.astimezone(UTC).time() == time()


EVERYTHING: Final = Span()


@dataclass(frozen=True, slots=True)
class SqlInvariant:
    """A query that returns no row while all is well. `sql` asks of everything."""

    name: str
    invariant: str
    fires: str
    sql: str

    @property
    def is_of_a_span(self) -> bool:
        """Whether it can be asked of a span of time; else it always is of everything."""
        return _SINCE in self.sql

    @property
    def is_of_days(self) -> bool:
        """Whether it compares whole days."""
        return f"{_UNTIL} AT TIME ZONE" in self.sql

    def within(self, span: Span) -> str:
        """The query, asked of a span."""
        since, until = span.moments
        asked = self.sql.replace(_SINCE, f"timestamptz '{since}'")
        return asked.replace(_UNTIL, f"timestamptz '{until}'")


_COMMENT: Final = re.compile(
    r"-- invariant: (?P<invariant>I\d+)\n-- fires: (?P<fires>.+(?:\n-- .+)*)\n(?P<sql>(?s:.+))"
)


def sql_invariants() -> list[SqlInvariant]:
    """The blocks of sql/invariants.sql. Raises ValueError for a block without its comment lines."""
    found = []
    for name, text in load_queries("invariants").items():
        parts = _COMMENT.fullmatch(text)
        if parts is None or parts["invariant"] not in TITLES:
            raise ValueError(
                f"{name} in sql/invariants.sql needs the lines `invariant` and `fires`"
            )
        fires = parts["fires"].replace("\n-- ", " ")
        found.append(SqlInvariant(name, parts["invariant"], fires, parts["sql"]))
    return found
