"""Reads the figures that a plan rests on: those of docs/performance.md, and a few of this file that
`make bench` does not take.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "performance.md"

# docs/growth.md says on what and when these were measured.
CALL_US: Final = 72.0
"""Microseconds of the thread of Redis for a script call, whatever is in it."""
OPERATION_US: Final = 15.5
"""The same for each operation in it, so that one alone takes both."""
ROW_BYTES: Final = 533.0
"""Bytes on Postgres' disk that an event takes: attribution, indexes and rollups."""
ID_BYTES: Final = 222.0
"""Bytes on Postgres' disk that remember its request id, so that it is charged once (0093)."""
ARCHIVE_BYTES: Final = 32.0
"""Bytes of an archive that an event takes."""
WAL_BYTES: Final = 1_636.0
"""Bytes of WAL that an event takes."""
PAYLOAD_BYTES: Final = 113.0
"""Bytes of JSON that the LLM route sends with a hold and a charge."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Figures of docs/performance.md: microseconds, bytes, and events or requests a second."""

    script_batch_us: float
    script_alone_us: float
    settle_per_s: float
    drain_per_s: float
    drain_s: float
    account_bytes: float
    hold_bytes: float
    event_bytes: float
    outcome_bytes: float
    meter_per_s: float
    sidecar_per_s: float
    route_per_s: float
    streams_per_s: float


_WHERE: Final = {
    "script_batch_us": r"\| calls of 100 \| ([\d.,]+)",
    "script_alone_us": r"\| one a call \| ([\d.,]+)",
    "settle_per_s": r"\| events/s \| ([\d.,]+)",
    "drain_per_s": r"\| 1,000,000 behind \| ([\d.,]+)/s",
    "drain_s": r"\| 1,000,000 behind \| [\d.,]+/s, ([\d.,]+) s",
    "account_bytes": r"an account ([\d.,]+)",
    "hold_bytes": r"an open hold ([\d.,]+) with",
    "event_bytes": r"event beyond its payload ([\d.,]+) in calls of 100",
    "outcome_bytes": r"a remembered outcome (\d[\d.,]*\d)",
    "meter_per_s": r"\*\*Requests\*\*.*?\| 100 \| ([\d.,]+)",
    "sidecar_per_s": r"\*\*Sidecar\*\*.*?\n\| ([\d.,]+) ",
    "route_per_s": r"\| per core of the API, whole, /s \| ([\d.,]+)",
    "streams_per_s": r"\| per core of the API, streams, /s \| ([\d.,]+)",
}


def read_page(text: str) -> Measured:
    """Read the figures of docs/performance.md. Raises ValueError naming one that is not there."""
    one_line = re.sub(r"(?<!\|)\n(?!\|)", " ", text)
    found = {}
    for name, pattern in _WHERE.items():
        match = re.search(pattern, one_line, re.DOTALL)
        if match is None:
            raise ValueError(f"docs/performance.md has no {name}: {pattern}")
        found[name] = float(match[1].replace(",", ""))
    return Measured(**found)


MEASURED: Final = read_page(PAGE.read_text("utf-8"))
