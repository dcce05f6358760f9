"""All planted bugs, in the order of the page."""

from __future__ import annotations

from typing import Final

from mutants import in_api, in_meter, in_redis, in_settler, in_sql
from mutants.bug import Bug

BUGS: Final[tuple[Bug, ...]] = (
    *in_redis.BUGS,
    *in_meter.BUGS,
    *in_settler.BUGS,
    *in_sql.BUGS,
    *in_api.BUGS,
)
