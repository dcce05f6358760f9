"""Names every kind of export."""

from __future__ import annotations

from typing import Final, Literal

from taximeter.settler.exports.columns import AUDIT, LEDGER, REQUESTS, USAGE, Kind
from taximeter.settler.exports.focus import FOCUS

KindName = Literal["usage", "requests", "ledger", "audit", "focus"]
FormatName = Literal["csv", "parquet"]

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for kind in (USAGE, REQUESTS, LEDGER, AUDIT, FOCUS)
}
FORMATS: Final = ("csv", "parquet")
